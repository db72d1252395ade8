#include "tests/sim/sim_client.h"

#include <fmt/format.h>

#include <utility>

#include "gen-cpp/Kv.h"
#include "gen-cpp/pando_constants.h"

namespace pando {
namespace {

constexpr Nanos kConnectWithinNs = 300 * kMillisecond;
constexpr Nanos kCallWithinNs = 1500 * kMillisecond;
constexpr Nanos kBusyPollNs = 100 * kMicrosecond;
constexpr int32_t kBudgetMs = 1000;
constexpr Nanos kMostBackOffNs = 50 * kMillisecond;

std::optional<std::string> ValueOf(const api::Record& record) {
  return record.found ? std::optional<std::string>(record.value) : std::nullopt;
}

}  // namespace

Task<void> SimClient::Close() {
  if (client_ == nullptr) co_return;
  std::unique_ptr<RpcClient> client = std::move(client_);
  co_await client->Close();
}

// Returns false if there is no connection; nothing was sent then.
Task<bool> SimClient::Connected() {
  if (client_ != nullptr && client_->connected() && !std::exchange(broken_, false)) co_return true;
  broken_ = false;
  co_await Close();
  client_ = std::make_unique<RpcClient>(reactor_);
  Status status = co_await client_->Connect(host_, port_, kConnectWithinNs);
  co_return status.ok();
}

template <typename Reply>
SimClient::Answer SimClient::Judge(const Status& status, const Reply& reply, bool is_read) {
  if (!status.ok()) {
    broken_ = true;
    return {is_read ? Outcome::kFailed : Outcome::kUnknown, status.ToString()};
  }
  if (reply.__isset.success) return {Outcome::kDone, ""};
  const bool nothing = is_read || reply.error.applied == api::g_pando_constants.APPLIED_NO;
  return {nothing ? Outcome::kFailed : Outcome::kUnknown, reply.error.message};
}

// Fills in the answer fields of `op` if it is done or refused.
Task<SimClient::Answer> SimClient::Send(Operation* op) {
  Answer answer;
  switch (op->kind) {
    case Operation::Kind::kGet: {
      api::Kv_get_args args;
      api::Kv_get_result reply;
      args.context.budget_ms = kBudgetMs;
      args.request.key = op->key;
      Status status = co_await client_->Call("get", &args, &reply, kCallWithinNs);
      answer = Judge(status, reply, true);
      op->seen = ValueOf(reply.success.record);
      break;
    }
    case Operation::Kind::kPut:
    case Operation::Kind::kSwap: {
      api::Kv_put_args args;
      api::Kv_put_result reply;
      args.context.budget_ms = kBudgetMs;
      args.request.key = op->key;
      args.request.value = op->value;
      if (op->kind == Operation::Kind::kSwap) {
        api::Condition condition;
        if (op->expected) {
          condition.__set_value(*op->expected);
        } else {
          condition.__set_exists(false);
        }
        args.request.__set_condition(condition);
      }
      Status status = co_await client_->Call("put", &args, &reply, kCallWithinNs);
      answer = Judge(status, reply, false);
      if (answer.outcome == Outcome::kDone && !reply.success.applied) {
        answer.outcome = Outcome::kRefused;
        op->refused = true;
        op->seen = ValueOf(reply.success.current);
      }
      break;
    }
    case Operation::Kind::kRemove: {
      api::Kv_remove_args args;
      api::Kv_remove_result reply;
      args.context.budget_ms = kBudgetMs;
      args.request.key = op->key;
      Status status = co_await client_->Call("remove", &args, &reply, kCallWithinNs);
      answer = Judge(status, reply, false);
      if (answer.outcome == Outcome::kDone) op->existed = reply.success.existed;
      break;
    }
    case Operation::Kind::kAdd: {
      api::Kv_increment_args args;
      api::Kv_increment_result reply;
      args.context.budget_ms = kBudgetMs;
      args.request.key = op->key;
      args.request.delta = op->delta;
      Status status = co_await client_->Call("increment", &args, &reply, kCallWithinNs);
      answer = Judge(status, reply, false);
      op->number = reply.success.number;
      break;
    }
  }
  co_return answer;
}

Task<SimClient::Outcome> SimClient::Do(Operation operation, Operation* answer, std::string* error) {
  operation.client = id_;
  while (busy_) co_await Sleep(reactor_, kBusyPollNs);
  busy_ = true;
  const bool connected = co_await Connected();
  if (!connected) {
    busy_ = false;
    if (error) *error = fmt::format("client {} cannot connect to {}:{}", id_, host_, port_);
    co_return Outcome::kFailed;
  }
  const size_t id = history_.Begin(operation, reactor_.ActsAtNs());
  Answer got = co_await Send(&operation);
  busy_ = false;
  Operation& recorded = history_.operation(id);
  if (got.outcome == Outcome::kDone || got.outcome == Outcome::kRefused) {
    recorded.refused = operation.refused;
    recorded.seen = operation.seen;
    recorded.existed = operation.existed;
    recorded.number = operation.number;
    history_.Finish(id, reactor_.ActsAtNs());
  } else if (got.outcome == Outcome::kFailed) {
    history_.Forget(id);
  }
  if (answer) *answer = recorded;
  if (error) *error = std::move(got.error);
  co_return got.outcome;
}

Operation SimClient::RandomOperation(const Work& work) {
  Operation op;
  const bool counter = random_.Chance(0.25);
  op.key = fmt::format("{}{}", counter ? 'n' : 'k', 1 + random_.Below(static_cast<uint64_t>(work.keys)));
  const uint64_t choice = random_.Below(100);
  if (counter) {
    op.kind = choice < 35 ? Operation::Kind::kGet : Operation::Kind::kAdd;
    op.delta = 1;
    return op;
  }
  // The values differ, so a read tells whose write it saw.
  op.value = std::to_string(1'000'000 * static_cast<int64_t>(id_) + static_cast<int64_t>(++writes_));
  if (choice < 40) {
    op.kind = Operation::Kind::kGet;
  } else if (choice < 75) {
    op.kind = Operation::Kind::kPut;
  } else if (choice < 95) {
    op.kind = Operation::Kind::kSwap;
    if (random_.Chance(0.9)) op.expected = last_seen_;
  } else {
    op.kind = Operation::Kind::kRemove;
  }
  return op;
}

Task<void> SimClient::RandomWork(Work work) {
  working_ = true;
  stopping_ = false;
  while (!stopping_) {
    Operation answer;
    const Outcome outcome = co_await Do(RandomOperation(work), &answer);
    if (outcome == Outcome::kDone && answer.key[0] == 'k') {
      last_seen_ = answer.kind == Operation::Kind::kGet ? answer.seen : answer.value;
    } else if (outcome == Outcome::kRefused) {
      last_seen_ = answer.seen;
    }
    const bool failed = outcome == Outcome::kFailed || outcome == Outcome::kUnknown;
    co_await Sleep(reactor_, random_.Between(0, failed ? kMostBackOffNs : work.most_think_ns));
  }
  working_ = false;
}

}  // namespace pando
