// A byte filter stands between a socket and the framing above it: what arrives goes through it, and
// so does what leaves. Encryption comes this way. AddFilter puts one on a connection, accepted or
// opened, of any reactor; a connection without a filter does not know that there could be one.
//
//   connection = AddFilter(reactor, connection, std::move(filter), options);
//   connection->SetHandler(this);   // starts the handshake
//
// The handler sees plain bytes only, and sees none before the handshake is complete. What it sends
// until then is held back. All else is as without a filter: pausing, closing, the counts of bytes.
// When the filter reports an error, what it has to say to the peer still leaves, and the handler
// gets the error in OnClosed.
//
// Threads: one reactor.
//
// Invariants
//   BF1  The handler of a connection is called only from the loop (R1), even if an error of the
//        filter shows in Send.
//   BF2  What a filter keeps is bounded (kMaxFilterBytes) and reserved from FilterOptions::memory.
//        When there is no memory for it, the connection is closed. Bytes that are held back count
//        as unsent_bytes().
//   BF3  A handshake ends within FilterOptions::handshake_limit_ns, or the connection does. It goes
//        on while the handler has paused receiving, and while Close(false) waits for it.
//   BF4  A peer that ends its bytes where the filter does not allow it is reported as such: a cut
//        connection cannot pass for a complete one.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "src/base/memory_budget.h"
#include "src/base/result.h"
#include "src/io/reactor.h"
#include "src/metrics/metrics.h"

namespace pando {

// The most that a filter may keep: its state, and a part of a record that has not arrived whole.
inline constexpr size_t kMaxFilterBytes = 64u << 10;

// One end of a filtered connection. A Status says what is wrong, but not with which peer: the
// connection adds that. After an error, only the destructor is called.
class ByteFilter {
 public:
  virtual ~ByteFilter() = default;

  // Called once, first. Appends to `wire` what this side says before it has heard anything.
  virtual Status Start(std::string* wire) = 0;
  // Takes bytes of the peer. Appends what they mean to `plain`, which must not be more than what
  // has arrived, and what must be answered to `wire`, also when it returns an error. REQUIRES:
  // !ended()
  virtual Status Receive(std::string_view bytes, std::string* plain, std::string* wire) = 0;
  // Appends to `wire` what stands for `plain`. REQUIRES: established()
  virtual Status Send(std::string_view plain, std::string* wire) = 0;
  // Appends to `wire` what tells the peer that nothing follows. REQUIRES: established(). Last call
  // but for Receive.
  virtual void End(std::string* wire) = 0;
  // The socket delivers nothing more, and the peer has not said so before: an error, unless the
  // filter allows it here. REQUIRES: established() && !ended()
  virtual Status OnCut() = 0;

  virtual bool established() const = 0;       // the handshake is complete; stays true
  virtual bool ended() const = 0;             // the peer has said that nothing follows
  virtual std::string principal() const = 0;  // the name that the peer has proved, once established
  virtual size_t held_bytes() const = 0;      // all memory that the filter keeps
};

// Makes the filters of a listener, or of a client.
class ByteFilters {
 public:
  // May be called on any reactor's thread.
  virtual std::unique_ptr<ByteFilter> MakeFilter(Reactor& reactor) = 0;

 protected:
  ~ByteFilters() = default;
};

struct FilterMetrics {
  Gauge handshakes;  // in progress
  Counter established_total, failed_total;
};

struct FilterOptions {
  BudgetAccount* memory = nullptr;  // must outlive OnClosed; null: not counted
  FilterMetrics* metrics = nullptr;
  Nanos handshake_limit_ns = 10 * kSecond;
};

// Returns the connection to use instead of `connection`, which belongs to it from now on and must
// be new: without a handler and without bytes. (If the reactor is destroyed before the connection
// has ended, its memory leaks, like the frames of coroutines.)
Connection* AddFilter(Reactor& reactor, Connection* connection, std::unique_ptr<ByteFilter> filter,
                      const FilterOptions& options = {});

}  // namespace pando
