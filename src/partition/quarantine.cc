#include "src/partition/quarantine.h"

#include <fmt/chrono.h>

#include "src/base/check.h"

namespace pando {

std::string_view QuarantinedPartition::Advice() const {
  if (given_up()) {
    return "nothing: this node drops its data by itself, or gets another replica, if the partition is to have one here";
  }
  if (units_dropped) {
    return "the log needed the room and has dropped what the file lacks: stop the node, and see kvadmin accept-loss "
           "for this partition";
  }
  if (why.code() == Code::kIoError) {
    return "check the device and start the node again: nothing is lost as long as the log holds what the file lacks";
  }
  if (why.code() == Code::kUnavailable) {
    return "check the device and start the node again, which finds the partition, with all that was acknowledged, or "
           "finds it dropped";
  }
  return "stop the node, see kvadmin check, and put a sound copy of what is damaged back; if there is none, see "
         "kvadmin accept-loss for this partition";
}

std::string QuarantinedPartition::What() const {
  constexpr int64_t kMsPerSecond = 1000;
  return fmt::format("partition {} (hash {:016x} to {:016x}) has been {} since {:%Y-%m-%d %H:%M:%S}.{:03}Z: {}", id,
                     first_hash, last_hash, given_up() ? "given up here" : "quarantined",
                     fmt::gmtime(static_cast<std::time_t>(since_ms / kMsPerSecond)), since_ms % kMsPerSecond,
                     why.message());
}

void QuarantinedPartition::Log() const {
  LOG_IF(INFO, given_up()) << What();
  LOG_IF(ERROR, !given_up()) << ToString();
}

std::string QuarantinedPartition::ToString() const { return fmt::format("{}. To do: {}", What(), Advice()); }

}  // namespace pando
