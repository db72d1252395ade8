package dev.pando.client;

import java.util.List;
import java.util.Optional;

/**
 * The outcome of a {@link WriteBatch}.
 *
 * @param results one for each op, in their order
 * @param failedConditions the conditions of the whole batch that did not hold; if there are any, nothing was applied
 */
public record BatchResult(List<WriteResult> results, List<FailedCondition> failedConditions) {
  /**
   * A condition of the whole batch that did not hold.
   *
   * @param index its number among the conditions of the batch, from 0
   * @param current the record as it is; empty if there is none
   * @param currentValueOmitted its value was left out, because a reply is limited
   */
  public record FailedCondition(int index, Optional<KvRecord> current, boolean currentValueOmitted) {}

  /** Whether every op was applied. */
  public boolean allApplied() {
    return results.stream().allMatch(WriteResult::applied);
  }

  static BatchResult of(dev.pando.api.WriteBatchReply reply) {
    List<WriteResult> results = Calls.list(reply.results, WriteResult::of);
    return new BatchResult(results, Calls.list(reply.failed_conditions,
        failed -> new FailedCondition(failed.index, KvRecord.of(failed.current), failed.current_value_omitted)));
  }
}
