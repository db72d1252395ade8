#include "tests/sim/level_audit.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace pando {
namespace {

// Clocks differ in their rates.
Nanos Latest(Nanos invoked_ns, Nanos bound_ns) { return invoked_ns - bound_ns - bound_ns / 20 - kMillisecond; }

}  // namespace

void LevelAudit::Begin(const LevelRequest& request) {
  if (request.kind == LevelRequest::Kind::kWrite) keys_[request.key].values.emplace(request.value, 0);
}

std::string LevelAudit::Written(const LevelRequest& request, Nanos now_ns) {
  Key& key = keys_[request.key];
  key.values[request.value] = request.version;
  if (request.level != WriteLevel::kOne) key.kept.push_back({request.version, now_ns});
  return "";
}

std::string LevelAudit::JudgeValue(const Key& key, const LevelRequest& request) const {
  if (!request.found) return "";
  const auto written = key.values.find(*request.found);
  if (written == key.values.end()) return fmt::format("{} has a value that nobody wrote", request.key);
  if (written->second != 0 && written->second != request.version) {
    return fmt::format("{} has a value of version {:x}, and its writer was told {:x}", request.key, request.version,
                       written->second);
  }
  return "";
}

std::string LevelAudit::Read(const LevelRequest& request) const {
  const auto at = keys_.find(request.key);
  if (at == keys_.end()) return request.found ? "a key has a value that nobody wrote" : "";
  if (std::string wrong = JudgeValue(at->second, request); !wrong.empty()) return wrong;
  if (request.kind == LevelRequest::Kind::kSession) {
    if (request.version >= request.floor) return "";
    return fmt::format("SESSION: {} was read at version {:x}, and the session has seen {:x}", request.key,
                       request.version, request.floor);
  }
  const Nanos latest_ns = Latest(request.invoked_ns, request.max_staleness_ns);
  for (const Acknowledged& kept : at->second.kept) {
    if (kept.at_ns > latest_ns || kept.version <= request.version) continue;
    return fmt::format(
        "BOUNDED: {} was read at version {:x}, and version {:x} was acknowledged {} ms before; the bound is {} ms",
        request.key, request.version, kept.version, (request.invoked_ns - kept.at_ns) / kMillisecond,
        request.max_staleness_ns / kMillisecond);
  }
  return "";
}

std::string LevelAudit::Final(const std::string& key, const std::optional<std::string>& found, Version version) const {
  LevelRequest last;
  last.kind = LevelRequest::Kind::kBounded;
  last.key = key;
  last.found = found;
  last.version = version;
  last.invoked_ns = std::numeric_limits<Nanos>::max() / 2;
  return Read(last);
}

std::vector<std::string> LevelAudit::Keys() const {
  std::vector<std::string> names;
  for (const auto& [name, key] : keys_) names.push_back(name);
  return names;
}

}  // namespace pando
