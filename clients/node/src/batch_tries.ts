/**
 * What is known of a batch after some of its tries. One for each call.
 *
 * A reply may say that some ops failed in a way that may pass. Then the whole batch is sent again under its name. A
 * partition that has judged its ops answers as the first time, whatever the others do, so what was once said of an op
 * without an error is final. An op with an error may be applied by a later try, so the last error counts, with two
 * exceptions: a refusal tells more than a later answer of a server that cannot say, such as NOT_MASTER, and an op that
 * an earlier try may have applied stays UNKNOWN until a partition has told what came of it.
 */
import { AbortError, checkLength, ClientClosedError, ErrorCode, fromKvError } from './errors';
import type { PandoError } from './errors';
import * as wire from './gen/pando_types';

export class BatchTries {
  private known: wire.WriteBatchReply | null = null;

  constructor(private readonly ops: number) {}

  /**
   * Takes a reply. Returns the error for which the batch is to be sent again, or null if `reply` is now what the call
   * returns.
   *
   * @param named - The batch has a name. Without one it is sent again only if no op can have been applied.
   * @param lost - An earlier try may have applied something, and its answer was lost.
   */
  take(reply: wire.WriteBatchReply, named: boolean, lost: boolean): PandoError | null {
    const conditionsFailed = !!reply.failed_conditions?.length;
    if (!conditionsFailed) checkLength('ops', this.ops, reply.results);
    if (lost) this.markUnknown(reply);
    const before = this.known?.results;
    if (before && before.length === reply.results?.length) {
      reply.results = reply.results.map((result, i) => merge(before[i] as wire.WriteResult, result));
    }
    this.known = reply;
    const failed = this.errors();
    const all = failed.length === (reply.results ?? []).length;
    const mayRepeat = named || (all && failed.every((error) => error.applied === wire.APPLIED_NO));
    const again = mayRepeat ? passing(failed) : null;
    if (!again) this.forbidRepeats();
    return again;
  }

  /** What the call returns although it failed with `error`; null if no op was answered, or if the caller ended it. */
  settle(error: PandoError, lost: boolean): wire.WriteBatchReply | null {
    const reply = this.known;
    if (!reply || error instanceof AbortError || error instanceof ClientClosedError) return null;
    if (lost) this.markUnknown(reply);
    // A refusal of the whole request is why the open ops were not tried again.
    if (error.code !== ErrorCode.DEADLINE && error.code !== ErrorCode.TRANSPORT) {
      for (const result of reply.results ?? []) {
        const before = result.error;
        if (!before?.retryable) continue;
        const { code, message, retryable } = error;
        const no = error.applied === 'NO' && before.applied === wire.APPLIED_NO;
        const applied = no ? wire.APPLIED_NO : wire.APPLIED_UNKNOWN;
        result.error = new wire.KvError({ code, message, retryable, applied });
      }
    }
    this.forbidRepeats();
    return reply;
  }

  /** The call is over, and another one would have another name: ops of unknown outcome would be applied twice. */
  private forbidRepeats(): void {
    for (const error of this.errors()) {
      if (fromKvError(error, true).applied === 'UNKNOWN') error.retryable = false;
    }
  }

  /** Some op was applied, or may have been. */
  get begun(): boolean {
    return this.unknown || (this.known?.results ?? []).some((result) => result.applied);
  }

  /** The outcome of some op is unknown. */
  get unknown(): boolean {
    return this.errors().some((error) => fromKvError(error, true).applied === 'UNKNOWN');
  }

  private errors(): wire.KvError[] {
    return (this.known?.results ?? []).flatMap(({ error }) => (error ? [error] : []));
  }

  private markUnknown(reply: wire.WriteBatchReply): void {
    for (const { error } of reply.results ?? []) {
      if (error?.applied === wire.APPLIED_NO) error.applied = wire.APPLIED_UNKNOWN;
    }
  }
}

function merge(before: wire.WriteResult, now: wire.WriteResult): wire.WriteResult {
  if (!before.error || before.error.applied === wire.APPLIED_YES) return before;
  if (!now.error) return now;
  const saysNothing = now.error.retryable && now.error.applied === wire.APPLIED_NO;
  if (!before.error.retryable && saysNothing) return before;
  if (now.error.applied === wire.APPLIED_NO) now.error.applied = before.error.applied;
  return now;
}

/** The error that tells when and where to try again: one that names a master, if there is one; the longest wait. */
function passing(failed: readonly wire.KvError[]): PandoError | null {
  const open = failed.filter((error) => error.retryable);
  const first = open.find((error) => error.master) ?? open[0];
  if (!first) return null;
  const { code, message, master } = first;
  const retry_after_ms = Math.max(...open.map((error) => error.retry_after_ms ?? 0));
  // The outcomes of ops are kept here, so the error says NO of the try.
  const fields = { code, message, master, retry_after_ms, retryable: true, applied: wire.APPLIED_NO };
  return fromKvError(new wire.KvError(fields), true);
}
