#include "src/replication/messages.h"

#include <fmt/format.h>

namespace pando::replication {
namespace {

std::string Text(const HistoryPoint& point) { return fmt::format("{}:{}", point.epoch, point.lsn); }

std::string Text(const Heartbeat& m) {
  return fmt::format("heartbeat of epoch {}, process {}", m.epoch, m.incarnation);
}
std::string Text(const HeartbeatAck& m) { return fmt::format("acknowledges a heartbeat of epoch {}", m.epoch); }
std::string Text(const AlignRequest& m) { return fmt::format("asks in epoch {} how far the log goes", m.epoch); }
std::string Text(const AlignReply& m) {
  std::string ends;
  for (const HistoryPoint& end : m.ends) ends += (ends.empty() ? "" : " ") + Text(end);
  return fmt::format("to epoch {}: the log has {}", m.epoch, ends.empty() ? "nothing" : ends);
}
std::string Text(const Append& m) {
  size_t units = 0;
  HistoryPoint last = m.after;
  PayloadReader reader(m.units);
  while (reader.Next() == PayloadReader::Item::kUnit) {
    ++units;
    last = {reader.unit.epoch, reader.unit.last_lsn(), reader.unit.chain_after};
  }
  return fmt::format("epoch {} appends {} units after {} to {}, committed {}", m.epoch, units, Text(m.after),
                     Text(last), m.commit_lsn);
}
std::string Text(const AppendAck& m) { return fmt::format("has {} durable, in epoch {}", Text(m.durable), m.epoch); }
std::string Text(const Fenced& m) { return fmt::format("refuses epoch {}, has promised {}", m.epoch, m.promised); }
std::string Text(const PromiseRequest& m) {
  return fmt::format("asks for the promise of epoch {}, at revision {}", m.epoch, m.revision);
}
std::string Text(const PromiseReply& m) {
  if (!m.promised) return fmt::format("does not promise epoch {}; highest {}", m.epoch, m.highest);
  return fmt::format("promises epoch {}; has {}", m.epoch, Text(m.end));
}
std::string Text(const CampaignNow& m) {
  return fmt::format("leaves the promotion to the longer log (epoch {})", m.epoch);
}
std::string Text(const Resign& m) { return fmt::format("process {} resigns from epoch {}", m.incarnation, m.epoch); }
std::string Text(const Condemn& m) {
  return fmt::format("epoch {} has proof that LSN {} was lost here", m.epoch, m.lsn);
}
std::string Text(const InstallOffer& m) {
  return fmt::format("epoch {} offers a copy of the pages to who has acknowledged {}", m.epoch, m.acked_lsn);
}
std::string Text(const DeathNotice& m) { return fmt::format("process {} is dead", m.incarnation); }

}  // namespace

std::string ToString(const Message& message) {
  return std::visit([](const auto& body) { return Text(body); }, message.body);
}

}  // namespace pando::replication
