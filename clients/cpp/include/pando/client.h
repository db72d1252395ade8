// The client of Pando, a replicated, ordered key-value store.
//
//   pando::client::Client client({"127.0.0.1:7450", "127.0.0.1:7460"});
//   client.put("fruit/apple", "red");
//   if (std::optional<pando::client::Record> apple = client.get("fruit/apple")) std::cout << apple->value;
//
// Threads: a Client may be used by many threads at a time, and so may a Snapshot. A Session, a Scan and a Watch belong
// to one thread at a time (but see Watch::stop). A child process must not use what was made before fork().
//
// Ownership: a Session, a Snapshot, a Scan and a Watch share the connections of their Client. They may outlive it, but
// once Client::close() was called, they throw ClosedError. Arguments are only used during the call.
//
// Time: each call has Options::timeout, or its own. Until it is over, the client repeats what may succeed later. A
// write has a name by which the server recognises it, so it takes effect once, however often it is sent.
//
// Errors: all calls throw subclasses of Error (pando/error.h). That there is no record, or that a condition does not
// hold, is no error.
#pragma once

#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pando/error.h"
#include "pando/types.h"

namespace pando::client {

class Reader;
class Store;
class Session;
class Snapshot;

namespace detail {
struct Scope;
struct SnapshotState;
struct WatchState;

/// The iterator of Scan and Watch: a single-pass input iterator that asks its owner for the next item.
template <class Owner, class Item>
class InputIterator {
 public:
  using value_type = Item;
  using difference_type = std::ptrdiff_t;
  using iterator_concept = std::input_iterator_tag;

  InputIterator() = default;
  Item& operator*() const { return *item_; }
  Item* operator->() const { return item_; }
  InputIterator& operator++() {
    item_ = owner_->advance();
    return *this;
  }
  void operator++(int) { ++*this; }
  friend bool operator==(const InputIterator& it, std::default_sentinel_t) { return it.item_ == nullptr; }

 private:
  friend Owner;
  InputIterator(Owner* owner, Item* item) : owner_(owner), item_(item) {}
  Owner* owner_ = nullptr;
  Item* item_ = nullptr;
};
}  // namespace detail

/// The rows of a range: an input range, which reads page by page. One pass only.
class Scan {
 public:
  using iterator = detail::InputIterator<Scan, Row>;

  Scan(Scan&&) noexcept;
  Scan& operator=(Scan&&) noexcept;
  ~Scan();

  /// The next row that was not taken yet. Iterators do not outlive the Scan, nor survive its move.
  iterator begin();
  std::default_sentinel_t end() const { return {}; }

  /// Continues after the last row of the last page whose rows were all taken, also in another process: no row is lost,
  /// and rows of a page that was not finished come once more. Empty = before the first page, or when it is done().
  const std::string& cursor() const;
  /// The range is exhausted, and all rows were taken.
  bool done() const;
  /// The requests made so far.
  std::int64_t pages() const { return pages_; }

 private:
  friend class Reader;
  friend iterator;
  Scan(std::shared_ptr<detail::Scope> scope, ScanOptions options);
  Row* advance();
  bool fetch();

  std::shared_ptr<detail::Scope> scope_;
  ScanOptions options_;  // the cursor is where the page began
  ScanPage page_;
  std::size_t next_ = 0;  // row of page_; the iterator shows the one before
  std::int64_t pages_ = 0;
  std::int64_t taken_ = 0;  // in pages that are finished
  bool last_page_ = false;
};

/// The changes of the records whose keys begin with a prefix: an endless input range. It has a connection of its own.
///
/// Values are not sent. A watcher that continues at position() gets every change, or FeedGoneError. On FeedGoneError,
/// open a snapshot, scan it, and watch from its version. After a lost reply a change may come twice.
class Watch {
 public:
  using iterator = detail::InputIterator<Watch, Change>;

  Watch(Watch&&) noexcept;
  Watch& operator=(Watch&&) noexcept;
  ~Watch();

  /// Waits for the next change, without an end, and iterates until stop(). Throws when the cluster cannot be reached
  /// for the time of a call; iterating again continues where it was.
  iterator begin();
  std::default_sentinel_t end() const { return {}; }

  /// The next change, or nullopt when there is none for so long, or after stop().
  std::optional<Change> next(milliseconds wait);
  /// Up to `max_changes` changes, as soon as there are any; none when there are none for so long, or after stop().
  /// position() is then behind the last of them. First come those that next() or an iterator has read ahead.
  std::vector<Change> poll(std::size_t max_changes, milliseconds wait);

  /// Where to continue: behind the last change of the last reply whose changes were all taken. Empty before the first
  /// reply, unless WatchOptions::position was set.
  const std::string& position() const;

  /// Ends a wait, and all later ones. Any thread may call it.
  void stop();

 private:
  friend class Store;
  friend iterator;
  Watch(std::shared_ptr<detail::Scope> scope, std::string_view prefix, WatchOptions options);
  Change* advance();

  std::shared_ptr<detail::WatchState> state_;
};

/// Calls that read. They are the same at a Client, a Session and a Snapshot.
class Reader {
 public:
  /// The record, or nullopt if there is none.
  std::optional<Record> get(std::string_view key, const ReadOptions& options = {}) const;
  /// The records in the order of the keys, nullopt for those that do not exist. Without a snapshot, each key is read on
  /// its own, so the records may belong to different moments.
  std::vector<std::optional<Record>> multi_get(std::span<const std::string_view> keys,
                                               const ReadOptions& options = {}) const;
  std::vector<std::optional<Record>> multi_get(std::initializer_list<std::string_view> keys,
                                               const ReadOptions& options = {}) const;
  std::vector<std::optional<Record>> multi_get(const std::vector<std::string>& keys,
                                               const ReadOptions& options = {}) const;
  /// The rows of a range in key order. Without a snapshot, each page shows its own moment.
  Scan scan(ScanOptions options) const;
  /// One page of a scan; ScanPage::cursor continues it. The page may be empty although there is a cursor.
  ScanPage scan_page(const ScanOptions& options) const;
  /// The number of records, in a time that does not depend on it.
  std::int64_t count(const Range& range, const ReadOptions& options = {}) const;
  Aggregate aggregate(const Range& range, const ReadOptions& options = {}) const;
  /// Splits the range into `parts` (2 to 256) parts of about equally many records, for parallel jobs. There may be
  /// fewer.
  std::vector<RangePart> split_range(const Range& range, std::int32_t parts, const ReadOptions& options = {}) const;

 protected:
  explicit Reader(std::shared_ptr<detail::Scope> scope);
  Reader(Reader&&) noexcept;
  Reader& operator=(Reader&&) noexcept;
  ~Reader();

  std::shared_ptr<detail::Scope> scope_;
};

/// Calls that read and write. They are the same at a Client and a Session.
///
/// A write that fails says in Error::applied() whether it took effect. DeadlineError with Applied::kUnknown: it may
/// take effect later, so read before you write again.
class Store : public Reader {
 public:
  /// Creates or replaces the record.
  WriteResult put(std::string_view key, std::string_view value, const PutOptions& options = {});
  /// To remove a record that does not exist succeeds: `applied` is true, and `existed` is false.
  WriteResult remove(std::string_view key, const RemoveOptions& options = {});
  /// Adds to a decimal number (64-bit signed), and returns the new one. A missing record counts as 0.
  std::int64_t increment(std::string_view key, std::int64_t delta = 1, const IncrementOptions& options = {});
  /// Changes when a record expires (not Expiry::keep). If there is none, `applied` is false.
  WriteResult touch(std::string_view key, const Expiry& expiry, const TouchOptions& options = {});
  /// Several writes in one request, with a result for each. While ops fail in a way that may pass, the batch is sent
  /// again under its name, in which what was applied is not applied again. When its time is over, those ops have their
  /// errors.
  BatchResult write_batch(const Batch& batch, const BatchOptions& options = {});
  /// Removes the records of a range, some with each request, and returns their number. It is not atomic. If it fails,
  /// some may be removed; calling it again is safe.
  std::int64_t delete_range(const Range& range, const DeleteRangeOptions& options = {});
  /// Watches the records whose keys begin with `prefix`. Without a version or a position, it asks where the cluster is,
  /// and the Watch tells what changes from then on.
  Watch watch(std::string_view prefix, WatchOptions options = {});
  /// Opens a snapshot: all reads through it see one moment.
  Snapshot snapshot(const SnapshotOptions& options = {});
  /// A snapshot that somebody else has opened, renews and releases. `version` is what Snapshot::version() will return.
  Snapshot attach_snapshot(std::string_view token, std::int64_t version = 0);

 protected:
  using Reader::Reader;
  Store(Store&&) noexcept = default;
  Store& operator=(Store&&) noexcept = default;
  ~Store() = default;
};

/// A moment of the whole store, for reads. It is renewed in the background, and released when it is destroyed.
class Snapshot : public Reader {
 public:
  Snapshot(Snapshot&&) noexcept;
  Snapshot& operator=(Snapshot&&) noexcept;
  ~Snapshot();

  /// No write in the snapshot has a higher version, no later one a lower.
  std::int64_t version() const;
  /// When the server gives it up unless it is renewed.
  TimePoint expires_at() const;
  /// Names the snapshot, for ScanOptions::since and Store::attach_snapshot.
  const std::string& token() const;
  /// Keeps it for so long from now.
  void renew(milliseconds ttl, const CallOptions& options = {});
  /// Releases it now. False if it was already gone.
  bool release(const CallOptions& options = {});

 private:
  friend class Store;
  Snapshot(std::shared_ptr<detail::Scope> scope, std::shared_ptr<detail::SnapshotState> state);
  void drop() noexcept;

  std::shared_ptr<detail::SnapshotState> state_;
};

/// Reads that see all that the session has seen, at any replica. For one thread at a time. On SessionLostError, begin a
/// new one.
class Session : public Store {
 public:
  /// Opaque: what the session has seen. Another process continues it with Client::session(token).
  std::string token() const;

 private:
  friend class Client;
  explicit Session(std::shared_ptr<detail::Scope> scope);
};

/// A client of one cluster. Making it does not connect. See the top of this file.
class Client : public Store {
 public:
  /// Addresses ("host:port", "[::1]:7450") of routers or nodes of one cluster. The client begins with any of them, and
  /// stays with one that works. Throws std::invalid_argument.
  explicit Client(const std::vector<std::string>& addresses, const Options& options = {});
  Client(Client&&) noexcept = default;
  Client& operator=(Client&&) noexcept;
  /// Closes it.
  ~Client();

  /// A session that has seen nothing, or what its token says.
  Session session(std::string_view token = {}) const;
  /// What the server says of itself.
  ServerInfo server_info(const CallOptions& options = {}) const;
  /// Closes all connections. Calls that are under way, and later ones, throw ClosedError.
  void close();
};

}  // namespace pando::client
