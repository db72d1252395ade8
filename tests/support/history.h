// History: what the clients of a simulated cluster asked for and were told, in simulated time.
// tests/support/linearizability.h judges it.
//
//   size_t id = history.Begin({.client = 1, .kind = Operation::Kind::kPut, .key = "x", .value = "1"}, now_ns);
//   ...                             // then exactly one of these, or none if the client never learns the outcome
//   history.Finish(id, now_ns);     // it took effect
//   history.Forget(id);             // the server said that it had no effect and told nothing else
//
// An operation with an unknown outcome (a broken connection, a deadline, an error after the request
// was sent) is never finished. It stays open for ever: it may take effect at any later time or
// never.
//
// Threads: one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "src/io/reactor.h"

namespace pando {

inline constexpr Nanos kNever = std::numeric_limits<Nanos>::max();

struct Operation {
  enum class Kind { kGet, kPut, kRemove, kSwap, kAdd };

  int client = 0;
  Kind kind = Kind::kGet;
  std::string key;
  // -- the request
  std::string value = {};                    // kPut, kSwap: the new value
  std::optional<std::string> expected = {};  // kSwap: the value that must be there; not set: no record
  int64_t delta = 0;                         // kAdd: a missing record counts as 0
  // -- the answer, if the operation is finished
  bool refused = false;                  // kSwap: the record was another one; `seen` says which
  std::optional<std::string> seen = {};  // kGet, refused kSwap: the value; not set: no record
  std::optional<bool> existed = {};      // kRemove: there was a record
  int64_t number = 0;                    // kAdd: the new number
  // -- set by History
  Nanos invoked_ns = 0, returned_ns = kNever;
  uint64_t invoked_order = 0, returned_order = 0;  // decide between equal times
  bool forgotten = false;

  bool finished() const { return returned_ns != kNever; }
  // "client 2 gets x = 7, from 12.000 to 13.500 ms", with times relative to `zero_ns`.
  std::string ToString(Nanos zero_ns = 0) const;
};

class History {
 public:
  // A history of these operations, whose times are set. (returned_ns = kNever: unknown outcome.)
  static History Of(std::vector<Operation> operations);

  size_t Begin(Operation operation, Nanos now_ns);
  // Sets the answer fields of operation(id) first.
  void Finish(size_t id, Nanos now_ns);
  void Forget(size_t id) { operations_[id].forgotten = true; }

  Operation& operation(size_t id) { return operations_[id]; }
  const std::vector<Operation>& operations() const { return operations_; }
  // The keys that occur, sorted.
  std::vector<std::string> Keys() const;
  size_t finished() const;
  size_t open() const;
  // One operation a line, in the order of their invocation.
  std::string ToString(Nanos zero_ns = 0) const;

 private:
  std::vector<Operation> operations_;
  uint64_t next_order_ = 1;
};

}  // namespace pando
