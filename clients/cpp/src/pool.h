// The connections of a client, and which address they go to.
//
// All calls prefer one address: a random one at first, and the next one when it fails. One that failed is avoided for a
// second, unless all have. A server that cannot serve a request may name another one; that call asks it next if it is
// one of the addresses that the user gave. Other calls do not follow: they may be for other partitions.
//
// Invariants:
// - open_ counts the connections that are lent and those being opened; it is at most the limit. A connection is opened
//   only when none to its address is idle, so there are no more than the limit to each address.
// - Dedicated connections (of watches) are not counted.
//
// Threads: any. A lent connection belongs to one thread; close() interrupts it.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "connection.h"

namespace pando::client::detail {

// Whom to ask after a server that cannot serve a request.
struct Referral {
  std::size_t address = 0;
  bool is_named = false;  // that server has named it
};

// Not thread-safe; the pool locks it.
class AddressBook {
 public:
  AddressBook(const std::vector<Address>& addresses, std::size_t first) : preferred_(first) {
    for (const Address& address : addresses) entries_.push_back({address});
  }
  const Address& at(std::size_t index) const { return entries_[index].address; }
  std::size_t choose(Clock::time_point now);
  // This one, unless it failed lately.
  std::size_t choose(Clock::time_point now, std::optional<std::size_t> wish);
  void failed(std::size_t index, Clock::time_point now);
  // The server at `from` cannot serve a request, and names who can ("" = it does not know). Returns that one if its
  // address is one of these and did not fail lately; otherwise, the one after `from`.
  Referral refer(std::size_t from, std::string_view to, Clock::time_point now) const;
  // Makes the next calls prefer another address.
  void leave(std::size_t from);

 private:
  struct Entry {
    Address address{};
    Clock::time_point avoid_until{};
  };
  std::vector<Entry> entries_;
  std::size_t preferred_;
};

class Pool {
 public:
  // A connection that is given back when the lease ends, or closed after discard().
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept { *this = std::move(other); }
    Lease& operator=(Lease&& other) noexcept {
      std::swap(pool_, other.pool_);
      std::swap(connection_, other.connection_);
      std::swap(dedicated_, other.dedicated_);
      std::swap(reused_, other.reused_);
      return *this;
    }
    ~Lease() { end(true); }

    explicit operator bool() const { return connection_ != nullptr; }
    Connection* operator->() const { return connection_.get(); }
    Connection& operator*() const { return *connection_; }
    // It was idle before, so its server may have closed it.
    bool reused() const { return reused_; }
    // The connection does not work: close it, and avoid its address for a while.
    void fail();
    // Closes the connection.
    void discard() { end(false); }

   private:
    friend Pool;
    void end(bool keep);
    Pool* pool_ = nullptr;
    std::unique_ptr<Connection> connection_;
    bool dedicated_ = false;
    bool reused_ = false;
  };

  Pool(const std::vector<Address>& addresses, std::size_t limit, std::string client_name, milliseconds connect_timeout);

  // An idle connection or a new one, to the address that is wished for unless that failed lately; waits while all are
  // lent. Throws Failure (nothing was sent).
  Lease acquire(Deadline deadline, std::optional<std::size_t> wish = std::nullopt);
  // A connection that is not shared.
  Lease dedicated(Deadline deadline, std::optional<std::size_t> wish = std::nullopt);
  Referral refer(std::size_t from, std::string_view to);
  void leave(std::size_t from);
  // Ends the wait of a lent connection's owner. Nothing happens if it is not lent any more.
  void interrupt(const Connection* connection);
  void close();

 private:
  Lease open(std::size_t address, Deadline deadline, bool dedicated);
  void give_back(std::unique_ptr<Connection> connection, bool keep, bool dedicated);
  std::unique_ptr<Connection> take_idle(std::size_t address, std::vector<std::unique_ptr<Connection>>* dead);

  const std::size_t limit_;
  const std::string client_name_;
  const milliseconds connect_timeout_;
  std::mutex mutex_;
  std::condition_variable freed_;
  AddressBook book_;
  std::vector<std::unique_ptr<Connection>> idle_;  // the one that was used last is the last
  std::set<Connection*> lent_;
  std::size_t open_ = 0;
  bool closed_ = false;
};

}  // namespace pando::client::detail
