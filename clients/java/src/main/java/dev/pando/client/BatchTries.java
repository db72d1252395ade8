package dev.pando.client;

import dev.pando.api.KvError;
import dev.pando.api.WriteBatchReply;
import dev.pando.api.WriteBatchRequest;
import dev.pando.api.WriteResult;
import dev.pando.api.pandoConstants;
import java.util.List;
import org.apache.thrift.TBase;

/**
 * A batch is sent again as a whole, under its name, while some of its ops failed in a way that may pass. A partition
 * that has judged its ops answers as the first time, whatever the others do, so what was once said of an op without an
 * error is final. An op with an error may be applied by a later try, so the last error counts, with two exceptions: a
 * refusal tells more than a later answer of a server that cannot say, such as NOT_MASTER, and an op that an earlier try
 * may have applied stays UNKNOWN until a partition has told what came of it.
 *
 * <p>A batch without a name is sent again only if no op can have been applied.
 */
final class BatchTries implements Parts<BatchResult> {
  private final WriteBatchRequest request;
  private WriteBatchReply known;

  BatchTries(WriteBatchRequest request) {
    this.request = request;
  }

  @Override
  public TBase<?, ?> request() {
    return request;
  }

  @Override
  public BatchResult take(TBase<?, ?> answer, boolean named, boolean lost) {
    WriteBatchReply reply = (WriteBatchReply) answer;
    if (reply.results == null) reply.results = List.of();
    int ops = request.ops.size();
    boolean conditionsFailed = reply.failed_conditions != null && !reply.failed_conditions.isEmpty();
    if (reply.results.size() != ops && !conditionsFailed) {
      throw new ProtocolException(reply.results.size() + " results came for " + ops + " ops", null);
    }
    if (lost) markUnknown(reply);
    if (known != null && known.results.size() == reply.results.size()) {
      for (int i = 0; i < reply.results.size(); ++i) {
        reply.results.set(i, merge(known.results.get(i), reply.results.get(i)));
      }
    }
    known = reply;
    PandoException again = named || nothingWasApplied() ? passing() : null;
    if (again != null) throw again;
    return result();
  }

  /** The call is over, and another one would have another name: ops of unknown outcome would be applied twice. */
  private BatchResult result() {
    for (WriteResult result : known.results) {
      if (result.error != null && Applied.of(result.error.applied) == Applied.UNKNOWN) result.error.setRetryable(false);
    }
    return BatchResult.of(known);
  }

  private boolean nothingWasApplied() {
    return known.results.stream().allMatch(result -> isNo(result.error));
  }

  private static boolean isNo(KvError error) {
    return error != null && error.applied == pandoConstants.APPLIED_NO;
  }

  private static WriteResult merge(WriteResult before, WriteResult now) {
    if (before.error == null || before.error.applied == pandoConstants.APPLIED_YES) return before;
    if (now.error == null) return now;
    if (!before.error.retryable && now.error.retryable && isNo(now.error)) return before;
    if (isNo(now.error)) now.error.applied = before.error.applied;
    return now;
  }

  /** The error that tells when and where to try again: one that names a master, if there is one; the longest wait. */
  private PandoException passing() {
    KvError first = null;
    int wait = 0;
    for (WriteResult result : known.results) {
      KvError error = result.error;
      if (error == null || !error.retryable) continue;
      wait = Math.max(wait, error.retry_after_ms);
      if (first == null || (first.master == null && error.master != null)) first = error;
    }
    if (first == null) return null;
    // The outcomes of ops are kept here, so the error says NO of the try.
    KvError passing = new KvError(first).setApplied(pandoConstants.APPLIED_NO);
    return PandoException.of(passing.setRetry_after_ms(wait));
  }

  @Override
  public BatchResult settle(PandoException error, boolean lost) {
    if (known == null || error.code() == ErrorCode.CLOSED) return null;
    if (lost) markUnknown(known);
    // A refusal of the whole request is why the open ops were not tried again.
    if (error.code() != ErrorCode.DEADLINE && error.code() != ErrorCode.TRANSPORT) {
      for (WriteResult result : known.results) {
        if (result.error == null || !result.error.retryable) continue;
        boolean no = isNo(result.error) && error.applied() == Applied.NO;
        result.error = new KvError().setCode(error.code()).setMessage(error.serverMessage());
        result.error.setApplied(no ? pandoConstants.APPLIED_NO : pandoConstants.APPLIED_UNKNOWN);
        result.error.setRetryable(error.retryable());
      }
    }
    return result();
  }

  private static void markUnknown(WriteBatchReply reply) {
    for (WriteResult result : reply.results) {
      if (isNo(result.error)) result.error.applied = pandoConstants.APPLIED_UNKNOWN;
    }
  }

  @Override
  public boolean begun() {
    return known != null && known.results.stream()
        .anyMatch(result -> result.applied || (result.error != null && !isNo(result.error)));
  }

  @Override
  public boolean anyUnknown() {
    return known != null && known.results.stream()
        .anyMatch(result -> result.error != null && Applied.of(result.error.applied) == Applied.UNKNOWN);
  }
}
