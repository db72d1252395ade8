// Turns the types of the client into those of the wire and back.
#pragma once

#include "core.h"
#include "pando/client.h"

namespace pando::client::detail {

CallSpec read_spec(const Scope& scope, ReadLevel level, milliseconds max_staleness,
                   std::optional<milliseconds> timeout);
CallSpec write_spec(const Scope& scope, WriteLevel level, std::optional<milliseconds> timeout,
                    CallKind kind = CallKind::kNamedWrite);
const std::string& snapshot_token(const Scope& scope);  // empty without one

// The server's limits are 32 bits wide; so much time or so many rows are refused or cut there.
std::int32_t to_i32(std::int64_t number);
std::optional<TimePoint> to_time(std::int64_t expires_at_ms);

struct WatchState {
  std::shared_ptr<Scope> scope;
  std::string prefix;
  WatchOptions options;  // the position is where the changes began
  std::string next_position{};
  std::vector<Change> changes{};
  std::size_t taken = 0;  // of changes
  Change current{};       // what the iterator shows
  Pool::Lease connection{};
  std::atomic<const Connection*> in_use{nullptr};
  std::atomic<bool> stopped{false};

  WatchState(std::shared_ptr<Scope> of, std::string_view keys, WatchOptions with)
      : scope(std::move(of)), prefix(keys), options(std::move(with)) {}
  // One request, which waits for at most `wait`, and replaces the changes, which must all be taken.
  void fetch(std::int32_t limit_changes, milliseconds wait);
  // Where to continue after the changes that were taken.
  const std::string& position() const;
  void stop();
};

}  // namespace pando::client::detail
