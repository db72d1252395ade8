package dev.pando.client;

import java.util.Optional;
import java.util.OptionalLong;

/**
 * The outcome of one write.
 *
 * <p>If an answer was lost and the client asked for it again, {@code current} and {@code previous} are empty and marked
 * as omitted, because servers do not remember them.
 *
 * @param applied it took effect. If not, its condition did not hold; or, in a batch, it was withheld or has an error
 * @param version the version that the write gave the record
 * @param existed whether there was a record
 * @param current the record as it was when the condition did not hold; empty if there was none
 * @param currentValueOmitted the value of {@code current} was left out, because a reply is limited
 * @param previous the record before the write, if {@link WriteOptions#returnPrevious()} asked for it
 * @param previousValueOmitted {@code previous} or its value was left out
 * @param number the new number of an increment
 * @param withheld in a batch: valid, but not applied, because another op or a condition of the batch failed
 * @param error in a batch: what this op failed with
 */
public record WriteResult(boolean applied, long version, boolean existed, Optional<KvRecord> current,
    boolean currentValueOmitted, Optional<KvRecord> previous, boolean previousValueOmitted, OptionalLong number,
    boolean withheld, Optional<PandoException> error) {
  static WriteResult of(dev.pando.api.WriteResult result) {
    return new WriteResult(result.applied, result.version, result.existed, KvRecord.of(result.current),
        result.current_value_omitted, KvRecord.of(result.previous), result.previous_value_omitted,
        result.isSetNumber() ? OptionalLong.of(result.number) : OptionalLong.empty(), result.withheld,
        Optional.ofNullable(result.error).map(PandoException::of));
  }
}
