#include "pool.h"

#include <algorithm>
#include <random>

namespace pando::client::detail {
namespace {

constexpr std::chrono::seconds kAvoidTime{1};

std::size_t random_index(std::size_t size) { return std::random_device{}() % size; }

}  // namespace

std::size_t AddressBook::choose(Clock::time_point now) {
  std::size_t best = preferred_;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const std::size_t index = (preferred_ + i) % entries_.size();
    if (entries_[index].avoid_until <= now) {
      best = index;
      break;
    }
    if (entries_[index].avoid_until < entries_[best].avoid_until) best = index;
  }
  return preferred_ = best;
}

std::size_t AddressBook::choose(Clock::time_point now, std::optional<std::size_t> wish) {
  return wish && entries_[*wish].avoid_until <= now ? *wish : choose(now);
}

Referral AddressBook::refer(std::size_t from, std::string_view to, Clock::time_point now) const {
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const Address& address = entries_[i].address;
    if (address.text != to && address.host + ":" + address.port != to) continue;
    if (i == from || entries_[i].avoid_until > now) break;
    return {.address = i, .is_named = true};
  }
  return {.address = (from + 1) % entries_.size()};
}

void AddressBook::leave(std::size_t from) {
  if (preferred_ == from) preferred_ = (from + 1) % entries_.size();
}

void AddressBook::failed(std::size_t index, Clock::time_point now) { entries_[index].avoid_until = now + kAvoidTime; }

void Pool::Lease::fail() {
  if (connection_ == nullptr) return;
  {
    const std::lock_guard lock(pool_->mutex_);
    pool_->book_.failed(connection_->address_index(), Clock::now());
  }
  discard();
}

void Pool::Lease::end(bool keep) {
  if (connection_ != nullptr) pool_->give_back(std::move(connection_), keep, dedicated_);
}

Pool::Pool(const std::vector<Address>& addresses, std::size_t limit, std::string client_name,
           milliseconds connect_timeout)
    : limit_(std::max<std::size_t>(limit, 1)),
      client_name_(std::move(client_name)),
      connect_timeout_(connect_timeout),
      book_(addresses, random_index(addresses.size())) {}

Referral Pool::refer(std::size_t from, std::string_view to) {
  const std::lock_guard lock(mutex_);
  return book_.refer(from, to, Clock::now());
}

void Pool::leave(std::size_t from) {
  const std::lock_guard lock(mutex_);
  book_.leave(from);
}

Pool::Lease Pool::acquire(Deadline deadline, std::optional<std::size_t> wish) {
  std::vector<std::unique_ptr<Connection>> dead;  // closed after the lock is released
  std::unique_lock lock(mutex_);
  for (;;) {
    if (closed_) throw closed_failure();
    const std::size_t address = book_.choose(Clock::now(), wish);
    std::unique_ptr<Connection> connection = open_ < limit_ ? take_idle(address, &dead) : nullptr;
    if (connection != nullptr) {
      ++open_;
      lent_.insert(connection.get());
      Lease lease;
      lease.pool_ = this;
      lease.connection_ = std::move(connection);
      lease.reused_ = true;
      return lease;
    }
    if (open_ < limit_) {
      ++open_;
      lock.unlock();
      return open(address, deadline, false);
    }
    if (freed_.wait_until(lock, deadline) == std::cv_status::timeout) {
      freed_.notify_one();  // it may have been this thread that was told
      throw transport_failure("no connection of the pool became free in time", false);
    }
  }
}

Pool::Lease Pool::dedicated(Deadline deadline, std::optional<std::size_t> wish) {
  std::size_t address = 0;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) throw closed_failure();
    address = book_.choose(Clock::now(), wish);
  }
  return open(address, deadline, true);
}

// The caller has counted it, unless it is dedicated.
Pool::Lease Pool::open(std::size_t address, Deadline deadline, bool dedicated) {
  Lease lease;
  lease.pool_ = this;
  lease.dedicated_ = dedicated;
  try {
    lease.connection_ = std::make_unique<Connection>(book_.at(address), address, client_name_,
                                                     std::min(deadline, Clock::now() + connect_timeout_));
  } catch (...) {
    const std::lock_guard lock(mutex_);
    book_.failed(address, Clock::now());
    if (!dedicated) --open_;
    freed_.notify_one();
    throw;
  }
  const std::lock_guard lock(mutex_);
  lent_.insert(lease.connection_.get());
  if (closed_) lease.connection_->interrupt();
  return lease;
}

std::unique_ptr<Connection> Pool::take_idle(std::size_t address, std::vector<std::unique_ptr<Connection>>* dead) {
  for (std::size_t i = idle_.size(); i-- > 0;) {
    if (idle_[i]->address_index() != address) continue;
    std::unique_ptr<Connection> connection = std::move(idle_[i]);
    idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(i));
    if (connection->usable()) return connection;
    dead->push_back(std::move(connection));
  }
  return nullptr;
}

void Pool::give_back(std::unique_ptr<Connection> connection, bool keep, bool dedicated) {
  std::unique_ptr<Connection> dead;  // closed after the lock is released
  const std::lock_guard lock(mutex_);
  lent_.erase(connection.get());
  if (!dedicated) --open_;
  if (!dedicated && keep && !closed_) {
    idle_.push_back(std::move(connection));
    // Those to an address that is not used any more would stay although its server has closed them.
    if (idle_.size() > limit_ && !idle_.front()->usable()) {
      dead = std::move(idle_.front());
      idle_.erase(idle_.begin());
    }
  } else {
    connection.reset();
  }
  freed_.notify_one();
}

void Pool::interrupt(const Connection* connection) {
  const std::lock_guard lock(mutex_);
  for (Connection* lent : lent_) {
    if (lent == connection) lent->interrupt();
  }
}

void Pool::close() {
  std::vector<std::unique_ptr<Connection>> idle;
  const std::lock_guard lock(mutex_);
  closed_ = true;
  idle.swap(idle_);
  for (Connection* lent : lent_) lent->interrupt();
  freed_.notify_all();
}

}  // namespace pando::client::detail
