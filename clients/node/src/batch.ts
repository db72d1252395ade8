import * as wire from './gen/pando_types';
import { toCondition, toExpiry } from './options';
import type { ConditionOptions, ExpiryOptions, WriteOptions } from './options';
import type { BatchResult } from './results';
import { toBytes, toI64 } from './values';
import type { Bytes, Integer } from './values';

/** One write of a batch. */
export type BatchOp =
  | ({ type: 'put'; key: Bytes; value: Bytes; returnPrevious?: boolean } & ConditionOptions & ExpiryOptions)
  | ({ type: 'remove'; key: Bytes; returnPrevious?: boolean } & ConditionOptions)
  | ({ type: 'increment'; key: Bytes; delta?: Integer } & ConditionOptions & ExpiryOptions)
  | ({ type: 'touch'; key: Bytes } & ConditionOptions & ExpiryOptions);

/** A condition of a whole batch, on any key with the {tag} of its ops. */
export type KeyCondition = { key: Bytes } & ConditionOptions;

/** Options of batches. */
export interface BatchOptions extends WriteOptions {
  /** One refused op refuses all ops on its partition. Keys with the same {tag} share a partition. */
  allOrNothing?: boolean;
  /** All of them must hold, or no op is applied. They and the ops must have keys with the same {tag}. */
  conditions?: readonly KeyCondition[];
}

const KINDS = {
  put: wire.OP_PUT,
  remove: wire.OP_REMOVE,
  increment: wire.OP_INCREMENT,
  touch: wire.OP_TOUCH,
} as const;

/** @internal */
export function toOp(op: BatchOp): wire.WriteOp {
  const kind = KINDS[op.type];
  if (kind === undefined) throw new TypeError(`there is no op of the type "${String(op.type)}"`);
  const fields: Partial<wire.WriteOp> = { kind, key: toBytes(op.key, 'key'), condition: toCondition(op) };
  if (op.type === 'put') fields.value = toBytes(op.value, 'value');
  if (op.type === 'increment') fields.delta = toI64(op.delta ?? 1n, 'delta');
  if (op.type !== 'remove') Object.assign(fields, toExpiry(op));
  if (op.type === 'put' || op.type === 'remove') fields.return_previous = op.returnPrevious ?? false;
  return new wire.WriteOp(fields);
}

/** @internal */
export function toKeyCondition(condition: KeyCondition): wire.KeyCondition {
  return new wire.KeyCondition({ key: toBytes(condition.key, 'key'), condition: toCondition(condition) });
}

/** @internal What a batch sends: its ops and conditions, whose bytes are copies. */
export interface BatchContent {
  readonly ops: wire.WriteOp[];
  readonly conditions: wire.KeyCondition[];
}

/**
 * Collects writes, and sends them together.
 *
 * @example
 * ```ts
 * const { results } = await client.batch()
 *   .put('{order7}/state', 'paid')
 *   .increment('{order7}/changes')
 *   .write({ allOrNothing: true });
 * ```
 */
export class Batch {
  private readonly content: BatchContent = { ops: [], conditions: [] };

  /** @internal */
  constructor(private readonly send: (content: BatchContent, options: BatchOptions) => Promise<BatchResult>) {}

  /** The number of writes so far. */
  get size(): number {
    return this.content.ops.length;
  }

  /** See client.put. */
  put(key: Bytes, value: Bytes, options: Omit<BatchOp & { type: 'put' }, 'type' | 'key' | 'value'> = {}): this {
    return this.add({ ...options, type: 'put', key, value });
  }

  /** See client.remove. */
  remove(key: Bytes, options: Omit<BatchOp & { type: 'remove' }, 'type' | 'key'> = {}): this {
    return this.add({ ...options, type: 'remove', key });
  }

  /** See client.increment. */
  increment(
    key: Bytes,
    delta: Integer = 1n,
    options: Omit<BatchOp & { type: 'increment' }, 'type' | 'key' | 'delta'> = {},
  ): this {
    return this.add({ ...options, type: 'increment', key, delta });
  }

  /** See client.touch. */
  touch(key: Bytes, options: Omit<BatchOp & { type: 'touch' }, 'type' | 'key'>): this {
    return this.add({ ...options, type: 'touch', key });
  }

  /** Adds any op. */
  add(op: BatchOp): this {
    this.content.ops.push(toOp(op));
    return this;
  }

  /** Nothing is applied unless this holds. */
  condition(key: Bytes, condition: ConditionOptions): this {
    this.content.conditions.push(toKeyCondition({ ...condition, key }));
    return this;
  }

  /** Sends the batch. It stays as it is, so it can be extended and written again, as another batch. */
  write(options: BatchOptions = {}): Promise<BatchResult> {
    const { ops, conditions } = this.content;
    const more = (options.conditions ?? []).map(toKeyCondition);
    return this.send({ ops: [...ops], conditions: [...conditions, ...more] }, options);
  }
}
