// Clients of a real cluster, and the judgement of what they saw. Tests of whole processes start this program, break
// nodes meanwhile, and stop it. It is never shipped.
//
//   cluster_workload ADDRESS,ADDRESS,... [--threads=N] [--keys=N] [--turnover=N] [--operations=N] [--seed=S]
//                    [--budget_ms=N] [--patience_ms=N] [--think_ms=N] [--all_named=0|1] [--history=FILE]
//
// Each thread is a client. It gets, puts, removes, swaps and increments records, and every value is written only once.
// Half of the writes have a name (with --all_named=1: all of them), and are sent again until their outcome is known.
// The others are sent once: if no answer comes, they stay open in the history. Operations fall on a few keys; after
// --turnover operations a key is replaced by a new one, so that the history of each key stays short enough to be
// judged.
//
// It stops after --operations finished operations, or when its standard input ends. Then it reads every key that was
// ever used, and checks that one order of the operations on each key explains all answers (linearizability.h), and that
// the counters hold exactly what was added by name. While it runs, it prints a line of figures ten times in a second.
// Each line of its standard input begins a new phase; in the end it prints how long the operations of each phase took.
//
// Exit codes: 0 the history is linearizable; 1 it is not; 2 it cannot be judged, because the cluster did not answer in
// the end or there are too many explanations.
#include <fmt/format.h>
#include <poll.h>
#include <thrift/TOutput.h>
#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/transport/TBufferTransports.h>
#include <thrift/transport/TSocket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gen-cpp/Kv.h"
#include "gen-cpp/pando_constants.h"
#include "tests/support/linearizability.h"

namespace pando {
namespace {

using apache::thrift::TException;
using Kind = Operation::Kind;

struct Settings {
  std::vector<std::string> addresses;
  int threads = 16, keys = 24, turnover = 2000, budget_ms = 1000, patience_ms = 30'000, think_ms = 0, all_named = 0;
  uint64_t operations = 0, seed = 1;
  std::string history;
};

Nanos Now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

void SleepMs(int64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

// -- what the threads share

// The keys in use. A slot is one key at a time; odd slots are counters.
class Slots {
 public:
  explicit Slots(const Settings& settings)
      : seed_(settings.seed), turnover_(settings.turnover), slots_(settings.keys) {}

  struct Slot {
    std::atomic<uint64_t> used{0};
    std::atomic<Nanos> finished_ns{0};  // when an operation on it was finished last
  };

  int size() const { return static_cast<int>(slots_.size()); }
  Slot& slot(int i) { return slots_[i]; }
  std::string NextKey(int i) { return Key(i, slots_[i].used.fetch_add(1) / turnover_); }
  bool IsCounter(int i) const { return i % 2 == 1; }
  std::vector<std::pair<std::string, bool>> AllKeys() const {  // and whether it is a counter
    std::vector<std::pair<std::string, bool>> keys;
    for (int i = 0; i < size(); ++i) {
      for (uint64_t n = 0; n <= slots_[i].used.load() / turnover_; ++n) keys.emplace_back(Key(i, n), IsCounter(i));
    }
    return keys;
  }
  // For how long no operation on some key has been finished.
  int64_t StalledMs() const {
    Nanos oldest = Now();
    for (const Slot& slot : slots_) oldest = std::min(oldest, slot.finished_ns.load());
    return (Now() - oldest) / kMillisecond;
  }

 private:
  std::string Key(int i, uint64_t n) const {
    return fmt::format("{}/{}{}/{}", seed_, IsCounter(i) ? "count" : "value", i, n);
  }

  const uint64_t seed_;  // two runs have no key in common
  const uint64_t turnover_;
  std::vector<Slot> slots_;
};

struct Shared {
  explicit Shared(const Settings& s) : settings(s), slots(s) {}
  const Settings& settings;
  Slots slots;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> finished{0}, refused{0}, unknown{0};
  std::atomic<uint64_t> errors{0};  // attempts that were answered by an error, or by none
  std::atomic<size_t> phase{0};
  std::mutex mutex;
  std::string last_error;  // guarded by mutex

  void Failed(const std::string& why) {
    ++errors;
    std::lock_guard lock(mutex);
    last_error = why;
  }
};

// -- one client

class Connection {
 public:
  Connection(const std::string& address, int timeout_ms) {
    const size_t colon = address.rfind(':');
    auto socket = std::make_shared<apache::thrift::transport::TSocket>(address.substr(0, colon),
                                                                       std::stoi(address.substr(colon + 1)));
    socket->setConnTimeout(std::min(timeout_ms, 300));
    socket->setRecvTimeout(timeout_ms);
    socket->setSendTimeout(timeout_ms);
    transport_ = std::make_shared<apache::thrift::transport::TFramedTransport>(socket);
    kv_ = std::make_unique<api::KvClient>(std::make_shared<apache::thrift::protocol::TBinaryProtocol>(transport_));
    transport_->open();
  }
  api::KvClient& kv() { return *kv_; }

 private:
  std::shared_ptr<apache::thrift::transport::TTransport> transport_;
  std::unique_ptr<api::KvClient> kv_;
};

enum class Outcome { kDone, kNoEffect, kUnknown };

class Client {
 public:
  Client(int id, Shared* shared)
      : id_(id), shared_(*shared), settings_(shared->settings), random_(settings_.seed * 1000 + id) {
    lane_ = fmt::format("workload/{}/{}/{}", settings_.seed, getpid(), id);
  }

  void Run() {
    while (!shared_.stop.load()) {
      Step();
      if (settings_.think_ms > 0) SleepMs(static_cast<int64_t>(Below(2 * settings_.think_ms + 1)));
    }
  }

  Outcome Get(const std::string& key, int64_t patience_ms) {
    Operation op{.client = id_, .kind = Kind::kGet, .key = key};
    return Do(std::move(op), /*named=*/false, patience_ms);
  }

  std::vector<Operation>& operations() { return operations_; }
  // How long the operations of a phase took, in nanoseconds.
  const std::vector<Nanos>& latencies(size_t phase) { return latencies_[phase]; }
  const std::optional<std::string>& last_seen(const std::string& key) { return seen_[key]; }

 private:
  uint64_t Below(uint64_t n) { return random_() % n; }

  void Step() {
    const int i = static_cast<int>(Below(shared_.slots.size()));
    Operation op{.client = id_, .key = shared_.slots.NextKey(i)};
    const uint64_t dice = Below(100);
    if (shared_.slots.IsCounter(i)) {
      op.kind = dice < 40 ? Kind::kGet : Kind::kAdd;
      op.delta = 1;
    } else {
      op.kind = dice < 40 ? Kind::kGet : dice < 70 ? Kind::kPut : dice < 95 ? Kind::kSwap : Kind::kRemove;
      op.value = fmt::format("{}.{}", id_, ++values_);
      if (op.kind == Kind::kSwap) op.expected = seen_[op.key];
    }
    if (seen_.size() > 4 * static_cast<size_t>(shared_.slots.size())) seen_.clear();  // keys that are used no more
    // Adding by name is what shows that a write is applied once; every other addition might be open for ever.
    const bool named = settings_.all_named != 0 || (op.kind == Kind::kAdd ? Below(10) > 0 : Below(2) == 0);
    const Outcome outcome = Do(std::move(op), named, settings_.patience_ms);
    if (outcome == Outcome::kDone) shared_.slots.slot(i).finished_ns.store(Now());
  }

  // Sends the operation until it has an outcome, and records it.
  Outcome Do(Operation op, bool named, int64_t patience_ms) {
    api::Context context;
    context.__set_budget_ms(settings_.budget_ms);
    if (named && op.kind != Kind::kGet) {
      context.__set_client_id(lane_);
      context.__set_sequence(++sequence_);
      context.__set_first_sent_ms(UnixMs());
    }
    op.invoked_ns = Now();
    phase_ = shared_.phase;
    const Nanos until = op.invoked_ns + patience_ms * kMillisecond;
    bool may_have_happened = false;
    for (int attempts = 0;; ++attempts) {
      const Outcome outcome = Attempt(context, &op);
      if (outcome == Outcome::kDone) return Finish(std::move(op));
      if (outcome == Outcome::kUnknown && op.kind != Kind::kGet) may_have_happened = true;
      const bool again = outcome == Outcome::kNoEffect || op.kind == Kind::kGet || !context.client_id.empty();
      if (!again || Now() > until) {
        if (!may_have_happened) {
          ++shared_.refused;
          return Outcome::kNoEffect;
        }
        ++shared_.unknown;
        operations_.push_back(std::move(op));
        return Outcome::kUnknown;
      }
      if (!followed_) SleepMs(attempts < 10 ? 2 : 10);
    }
  }

  Outcome Finish(Operation op) {
    op.returned_ns = std::max(Now(), op.invoked_ns + 1);
    ++shared_.finished;
    latencies_[phase_].push_back(op.returned_ns - op.invoked_ns);
    if (op.kind == Kind::kGet || op.refused) seen_[op.key] = op.seen;
    if (op.kind == Kind::kPut || (op.kind == Kind::kSwap && !op.refused)) seen_[op.key] = op.value;
    if (op.kind == Kind::kRemove) seen_[op.key].reset();
    // The answer to a write that was sent again does not say what was there: it had no effect, and tells nothing.
    if (!forget_) operations_.push_back(std::move(op));
    return Outcome::kDone;
  }

  Outcome Attempt(const api::Context& context, Operation* op) {
    followed_ = false;
    const std::string at = WhereToSend(op->key);
    try {
      auto& connection = connections_[at];
      if (!connection) connection = std::make_unique<Connection>(at, settings_.budget_ms + 500);
    } catch (const TException& error) {
      return Fail(at, error.what(), op, Outcome::kNoEffect);
    }
    try {
      Send(connections_[at]->kv(), context, op);
      masters_[op->key] = at;
      return Outcome::kDone;
    } catch (const api::KvError& error) {
      const bool sent_elsewhere = error.__isset.master && !error.master.empty();
      followed_ = sent_elsewhere && error.master != at && silent_until_[error.master] < Now();
      if (masters_.size() > 1000) masters_.clear();
      masters_.erase(op->key);
      if (sent_elsewhere) masters_[op->key] = error.master;
      shared_.Failed(fmt::format("{}: {} (code {}, applied {})", at, error.message, error.code, error.applied));
      return error.applied == api::g_pando_constants.APPLIED_NO ? Outcome::kNoEffect : Outcome::kUnknown;
    } catch (const TException& error) {
      return Fail(at, error.what(), op, Outcome::kUnknown);
    }
  }

  // To the node that was master of the key lately, or to any, but rather not to one that has just not answered.
  std::string WhereToSend(const std::string& key) {
    if (auto known = masters_.find(key); known != masters_.end() && silent_until_[known->second] < Now()) {
      return known->second;
    }
    std::vector<std::string> others;
    for (const std::string& address : settings_.addresses) {
      if (silent_until_[address] < Now()) others.push_back(address);
    }
    const std::vector<std::string>& choice = others.empty() ? settings_.addresses : others;
    return choice[Below(choice.size())];
  }

  Outcome Fail(const std::string& at, const char* why, Operation* op, Outcome outcome) {
    connections_.erase(at);
    masters_.erase(op->key);
    silent_until_[at] = Now() + kSilentNs;
    shared_.Failed(fmt::format("{}: {}", at, why));
    return outcome;
  }

  void Send(api::KvClient& kv, const api::Context& context, Operation* op) {
    forget_ = false;
    switch (op->kind) {
      case Kind::kGet: {
        api::GetRequest request;
        request.__set_key(op->key);
        api::GetReply reply;
        kv.get(reply, context, request);
        op->seen = reply.record.found ? std::optional(reply.record.value) : std::nullopt;
        return;
      }
      case Kind::kRemove: {
        api::RemoveRequest request;
        request.__set_key(op->key);
        api::WriteResult reply;
        return kv.remove(reply, context, request);
      }
      case Kind::kAdd: {
        api::IncrementRequest request;
        request.__set_key(op->key);
        request.__set_delta(op->delta);
        api::WriteResult reply;
        kv.increment(reply, context, request);
        op->number = reply.number;
        return;
      }
      case Kind::kPut:
      case Kind::kSwap: return Put(kv, context, op);
    }
  }

  void Put(api::KvClient& kv, const api::Context& context, Operation* op) {
    api::PutRequest request;
    request.__set_key(op->key);
    request.__set_value(op->value);
    if (op->kind == Kind::kSwap) {
      api::Condition condition;
      if (op->expected)
        condition.__set_value(*op->expected);
      else
        condition.__set_exists(false);
      request.__set_condition(condition);
    }
    api::WriteResult reply;
    kv.put(reply, context, request);
    op->refused = !reply.applied;
    if (!op->refused) return;
    forget_ = !reply.__isset.current;
    op->seen = reply.current.found ? std::optional(reply.current.value) : std::nullopt;
  }

  static constexpr Nanos kSilentNs = kSecond;

  const int id_;
  Shared& shared_;
  const Settings& settings_;
  std::mt19937_64 random_;
  std::string lane_;
  int64_t sequence_ = 0;
  uint64_t values_ = 0;
  std::map<std::string, std::unique_ptr<Connection>> connections_;
  std::map<std::string, std::string> masters_;              // where operations on a key were answered last
  std::map<std::string, std::optional<std::string>> seen_;  // what a key held lately
  std::map<std::string, Nanos> silent_until_;               // a node that has not answered
  bool followed_ = false;                                   // the last attempt was sent elsewhere
  bool forget_ = false;                                     // the last answer tells nothing
  std::vector<Operation> operations_;
  size_t phase_ = 0;  // in which the operation began
  std::map<size_t, std::vector<Nanos>> latencies_;
};

// -- the end

void PrintFigures(Shared* shared, const char* state) {
  std::lock_guard lock(shared->mutex);
  std::string error;
  for (char c : shared->last_error) error += c == '"' || c == '\\' || c < ' ' ? '\'' : c;
  fmt::print(
      "{{\"state\": \"{}\", \"finished\": {}, \"refused\": {}, \"unknown\": {}, \"stalled_ms\": {}, "
      "\"errors\": {}, \"error\": \"{}\"}}\n",
      state, shared->finished.load(), shared->refused.load(), shared->unknown.load(), shared->slots.StalledMs(),
      shared->errors.load(), error);
  std::fflush(stdout);
}

bool InputHasEnded(Shared* shared) {
  pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  if (poll(&input, 1, 100) <= 0) return false;
  char byte = 0;
  if (read(STDIN_FILENO, &byte, 1) <= 0) return true;
  if (byte == '\n') ++shared->phase;
  return false;
}

void PrintPhases(const Shared& shared, std::vector<std::unique_ptr<Client>>* clients) {
  for (size_t phase = 0; phase <= shared.phase; ++phase) {
    std::vector<Nanos> all;
    for (auto& client : *clients) {
      const std::vector<Nanos>& some = client->latencies(phase);
      all.insert(all.end(), some.begin(), some.end());
    }
    std::sort(all.begin(), all.end());
    const auto us = [&all](double share) {
      return all.empty() ? 0 : all[static_cast<size_t>(share * static_cast<double>(all.size() - 1))] / 1000;
    };
    fmt::print("{{\"phase\": {}, \"operations\": {}, \"p50_us\": {}, \"p99_us\": {}, \"max_us\": {}}}\n", phase,
               all.size(), us(0.5), us(0.99), us(1));
  }
}

// Every addition by name had an outcome, so the counters tell how often each was applied.
std::string CompareCounters(const std::vector<Operation>& operations, Client* client,
                            const std::vector<std::pair<std::string, bool>>& keys) {
  std::map<std::string, std::pair<int64_t, int64_t>> added;  // certainly, perhaps
  for (const Operation& op : operations) {
    if (op.kind != Kind::kAdd) continue;
    (op.finished() ? added[op.key].first : added[op.key].second) += op.delta;
  }
  for (const auto& [key, is_counter] : keys) {
    if (!is_counter) continue;
    const int64_t found = std::stoll(client->last_seen(key).value_or("0"));
    const auto [certainly, perhaps] = added[key];
    if (found < certainly || found > certainly + perhaps) {
      return fmt::format("counter {} holds {}, but {} was added, and perhaps {} more\n", key, found, certainly,
                         perhaps);
    }
  }
  return "";
}

int Judge(Shared* shared, std::vector<std::unique_ptr<Client>>* clients) {
  const auto keys = shared->slots.AllKeys();
  Client last(1000, shared);
  for (const auto& [key, is_counter] : keys) {
    if (last.Get(key, 2 * shared->settings.patience_ms) == Outcome::kDone) continue;
    fmt::print("key {} cannot be read in the end: {}\n", key, shared->last_error);
    return 2;
  }
  std::vector<Operation> all;
  for (auto& client : *clients) {
    std::move(client->operations().begin(), client->operations().end(), std::back_inserter(all));
  }
  for (const Operation& op : last.operations()) all.push_back(op);
  const std::string counters = CompareCounters(all, &last, keys);
  const History history = History::Of(std::move(all));
  if (!shared->settings.history.empty()) std::ofstream(shared->settings.history) << history.ToString();
  const Linearizability result = CheckLinearizable(history);
  fmt::print("{}{}", counters, result.ok() ? "" : result.why + "\n");
  PrintFigures(shared, "judged");
  if (result.verdict == Linearizability::Verdict::kTooWide) return 2;
  return result.ok() && counters.empty() ? 0 : 1;
}

int Run(const Settings& settings) {
  Shared shared(settings);
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<std::thread> threads;
  for (int id = 1; id <= settings.threads; ++id) {
    clients.push_back(std::make_unique<Client>(id, &shared));
    threads.emplace_back([client = clients.back().get()] { client->Run(); });
  }
  while (!InputHasEnded(&shared) && (settings.operations == 0 || shared.finished < settings.operations)) {
    PrintFigures(&shared, "running");
  }
  shared.stop = true;
  for (std::thread& thread : threads) thread.join();
  PrintPhases(shared, &clients);
  return Judge(&shared, &clients);
}

bool Parse(int argc, char** argv, Settings* settings) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    if (argument.rfind("--", 0) != 0) {
      for (size_t at = 0; at <= argument.size();) {
        const size_t comma = std::min(argument.find(',', at), argument.size());
        settings->addresses.push_back(argument.substr(at, comma - at));
        at = comma + 1;
      }
      continue;
    }
    if (equals == std::string::npos) return false;
    const std::string name = argument.substr(2, equals - 2), value = argument.substr(equals + 1);
    const std::map<std::string, int*> numbers = {
        {"threads", &settings->threads},         {"keys", &settings->keys},
        {"turnover", &settings->turnover},       {"budget_ms", &settings->budget_ms},
        {"patience_ms", &settings->patience_ms}, {"think_ms", &settings->think_ms},
        {"all_named", &settings->all_named}};
    if (auto found = numbers.find(name); found != numbers.end())
      *found->second = std::atoi(value.c_str());
    else if (name == "operations")
      settings->operations = std::strtoull(value.c_str(), nullptr, 10);
    else if (name == "seed")
      settings->seed = std::strtoull(value.c_str(), nullptr, 10);
    else if (name == "history")
      settings->history = value;
    else
      return false;
  }
  return !settings->addresses.empty() && settings->keys > 0 && settings->turnover > 0;
}

}  // namespace
}  // namespace pando

int main(int argc, char** argv) {
  pando::Settings settings;
  if (!pando::Parse(argc, argv, &settings)) {
    fmt::print(stderr,
               "usage: cluster_workload ADDRESS,ADDRESS,... [--threads=N] [--keys=N] [--turnover=N]\n"
               "  [--operations=N] [--seed=S] [--budget_ms=N] [--patience_ms=N] [--think_ms=N]\n"
               "  [--all_named=0|1] [--history=FILE]\n");
    return 3;
  }
  apache::thrift::GlobalOutput.setOutputFunction([](const char*) {});  // the figures name the last error
  return pando::Run(settings);
}
