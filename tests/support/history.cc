#include "tests/support/history.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "src/base/check.h"

namespace pando {
namespace {

std::string Text(const std::optional<std::string>& value) { return value ? *value : "nothing"; }

double Milliseconds(Nanos ns) { return static_cast<double>(ns) / static_cast<double>(kMillisecond); }

std::string What(const Operation& op) {
  switch (op.kind) {
    case Operation::Kind::kGet: return fmt::format("gets {}{}", op.key, op.finished() ? " = " + Text(op.seen) : "");
    case Operation::Kind::kPut: return fmt::format("puts {} = {}", op.key, op.value);
    case Operation::Kind::kRemove:
      return fmt::format("removes {}{}", op.key,
                         op.existed ? *op.existed ? " and there was a record" : " and there was none" : "");
    case Operation::Kind::kSwap:
      return fmt::format("swaps {} from {} to {}{}", op.key, Text(op.expected), op.value,
                         op.refused ? " and is refused: it finds " + Text(op.seen) : "");
    case Operation::Kind::kAdd:
      return fmt::format("adds {} to {}{}", op.delta, op.key,
                         op.finished() ? fmt::format(" and gets {}", op.number) : "");
  }
  return "";
}

}  // namespace

std::string Operation::ToString(Nanos zero_ns) const {
  const std::string until =
      finished() ? fmt::format("to {:.6f} ms", Milliseconds(returned_ns - zero_ns)) : "with unknown outcome";
  return fmt::format("client {} {}, from {:.6f} {}{}", client, What(*this), Milliseconds(invoked_ns - zero_ns), until,
                     forgotten ? ", failed without effect" : "");
}

History History::Of(std::vector<Operation> operations) {
  struct Event {
    Nanos at_ns;
    bool invocation;  // at equal times, returns come first
    size_t op;
    auto operator<=>(const Event&) const = default;
  };
  std::vector<Event> events;
  for (size_t i = 0; i < operations.size(); ++i) {
    CHECK_GT(operations[i].returned_ns, operations[i].invoked_ns) << operations[i].ToString();
    events.push_back({operations[i].invoked_ns, true, i});
    if (operations[i].finished()) events.push_back({operations[i].returned_ns, false, i});
  }
  std::sort(events.begin(), events.end());
  History history;
  for (const Event& e : events) {
    Operation& op = operations[e.op];
    (e.invocation ? op.invoked_order : op.returned_order) = history.next_order_++;
  }
  history.operations_ = std::move(operations);
  return history;
}

size_t History::Begin(Operation operation, Nanos now_ns) {
  operation.invoked_ns = now_ns;
  operation.invoked_order = next_order_++;
  operations_.push_back(std::move(operation));
  return operations_.size() - 1;
}

void History::Finish(size_t id, Nanos now_ns) {
  Operation& op = operations_[id];
  CHECK(!op.finished() && !op.forgotten) << "the operation has ended already: " << op.ToString();
  CHECK_GE(now_ns, op.invoked_ns) << op.ToString();
  op.returned_ns = now_ns;
  op.returned_order = next_order_++;
}

std::vector<std::string> History::Keys() const {
  std::set<std::string> keys;
  for (const Operation& op : operations_) keys.insert(op.key);
  return {keys.begin(), keys.end()};
}

size_t History::finished() const {
  size_t count = 0;
  for (const Operation& op : operations_) count += op.finished();
  return count;
}

size_t History::open() const {
  size_t count = 0;
  for (const Operation& op : operations_) count += !op.finished() && !op.forgotten;
  return count;
}

std::string History::ToString(Nanos zero_ns) const {
  std::string text;
  for (const Operation& op : operations_) text += op.ToString(zero_ns) + "\n";
  return text;
}

}  // namespace pando
