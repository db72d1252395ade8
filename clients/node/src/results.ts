import { fromKvError } from './errors';
import type { PandoError } from './errors';
import type * as wire from './gen/pando_types';
import { fromRecord } from './values';
import type { KvRecord } from './values';

/**
 * The outcome of a write. A condition that did not hold is no error: `applied` is false, and `current` is the record.
 *
 * If the answer to the first try was lost, the server repeats it from memory, without `current` and `previous`; then
 * `currentOmitted` or `previousOmitted` is true.
 */
export interface WriteResult {
  readonly applied: boolean;
  /** The version that the write gave the record; 0n if it was not applied. */
  readonly version: bigint;
  /** There was a record. */
  readonly existed: boolean;
  /** The record for which the condition did not hold; null if there is none, or if the write was applied. */
  readonly current: KvRecord | null;
  /** The value of `current` was left out, or the whole of it. */
  readonly currentOmitted: boolean;
  /** The record before the write, with `returnPrevious`. */
  readonly previous: KvRecord | null;
  /** The value of `previous` was left out, or the whole of it. */
  readonly previousOmitted: boolean;
  /** The new number, of an increment. */
  readonly number: bigint | null;
}

/** The outcome of one write of a batch. */
export interface BatchOpResult extends WriteResult {
  /** Valid, but not applied: another op of an `allOrNothing` batch was refused, or a condition of the batch failed. */
  readonly withheld: boolean;
  /** This op was refused, or failed. It was not applied unless `error.applied` says so. */
  readonly error: PandoError | null;
}

/** A condition of a batch that did not hold. */
export interface FailedCondition {
  /** Its index among the conditions. */
  readonly index: number;
  readonly current: KvRecord | null;
  readonly currentOmitted: boolean;
}

/** The outcome of a batch. */
export interface BatchResult {
  /** One for each op, in their order. */
  readonly results: BatchOpResult[];
  /** If there are any, nothing was applied. */
  readonly failedConditions: FailedCondition[];
}

/** @internal */
export function fromWriteResult(result: wire.WriteResult): WriteResult {
  return {
    applied: result.applied ?? false,
    version: result.version ?? 0n,
    existed: result.existed ?? false,
    current: fromRecord(result.current),
    currentOmitted: result.current_value_omitted ?? false,
    previous: fromRecord(result.previous),
    previousOmitted: result.previous_value_omitted ?? false,
    number: result.number,
  };
}

/** @internal */
export function fromBatchReply(reply: wire.WriteBatchReply): BatchResult {
  return {
    results: (reply.results ?? []).map((result) => ({
      ...fromWriteResult(result),
      withheld: result.withheld ?? false,
      error: result.error ? fromKvError(result.error, true) : null,
    })),
    failedConditions: (reply.failed_conditions ?? []).map((failed) => ({
      index: failed.index ?? 0,
      current: fromRecord(failed.current),
      currentOmitted: failed.current_value_omitted ?? false,
    })),
  };
}
