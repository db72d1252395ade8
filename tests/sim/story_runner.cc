#include "tests/sim/story_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "tests/sim/audit_store.h"
#include "tests/support/linearizability.h"

namespace pando {
namespace {

using Kind = Statement::Kind;
using Outcome = SimClient::Outcome;

constexpr Nanos kStartWithinNs = 20 * kSecond;
constexpr Nanos kStopWithinNs = 60 * kSecond;
constexpr Nanos kAnswerWithinNs = 60 * kSecond;
constexpr Nanos kLookEvery = 5 * kMillisecond;
constexpr int kLastReads = 20;  // tries

// Nodes whose machines crashed are never destroyed.
SimNode* Keep(std::unique_ptr<SimNode> node) {
  static auto* nodes = new std::vector<std::unique_ptr<SimNode>>();
  nodes->push_back(std::move(node));
  return nodes->back().get();
}

bool IsClient(const std::string& name) { return name.starts_with("client"); }

// The outcome of a task that nobody may be left to wait for.
template <typename T>
using Pending = std::shared_ptr<std::optional<T>>;

template <typename T>
detail::FireAndForget Await(Task<T> task, Pending<T> result) {
  T value = co_await task;
  result->emplace(std::move(value));
}

template <typename T>
Pending<T> Begin(Task<T> task) {
  auto result = std::make_shared<std::optional<T>>();
  Await(std::move(task), result);
  return result;
}

struct Done {
  Outcome outcome;
  Operation answer;
  std::string error;
};
Task<Done> DoOperation(SimClient* client, Operation operation) {
  Done done{};
  done.outcome = co_await client->Do(std::move(operation), &done.answer, &done.error);
  co_return done;
}
Task<bool> CloseClient(SimClient* client) {
  co_await client->Close();
  co_return true;
}
Task<bool> WorkAtRandom(SimClient* client, SimClient::Work work) {
  co_await client->RandomWork(work);
  co_return true;
}

SimOptions KernelOptions(uint64_t seed) {
  SimOptions options;
  options.boot_clock_restarts = true;
  if (seed % 3 == 0) options.short_transfer_probability = 0.05;
  return options;
}

}  // namespace

StoryRunner::StoryRunner(uint64_t seed) : kernel_(seed, KernelOptions(seed)), random_(seed * 7919 + 1) {}
StoryRunner::~StoryRunner() {
  // Clients of machines that still run are abandoned with them.
  static auto* clients = new std::vector<std::unique_ptr<SimClient>>();
  for (auto& [id, client] : clients_) clients->push_back(std::move(client));
}

std::string StoryRunner::Summary() const {
  return fmt::format("{} events, {} operations finished, {} open, {} crashes", kernel_.events(), history_.finished(),
                     history_.open(), crashes_);
}

void StoryRunner::Fail(const Statement& statement, const std::string& what) {
  if (problem_.empty()) problem_ = fmt::format("line {}, '{}': {}", statement.line, statement.text, what);
}

std::string StoryRunner::Run(const std::vector<Statement>& story) {
  begun_ns_ = kernel_.now_ns();
  for (const Statement& statement : story) {
    Carry(statement);
    if (!problem_.empty()) return problem_;
  }
  Statement last;
  last.line = story.empty() ? 0 : story.back().line + 1;
  last.text = "the end";
  Finish(last);
  return problem_;
}

void StoryRunner::WaitUntil(Nanos time_ns) {
  while (kernel_.now_ns() < time_ns) {
    kernel_.RunUntilIdle(std::min(time_ns, kernel_.now_ns() + kLookEvery));
    for (const auto& [name, machine] : machines_) {
      if (machine.node != nullptr) machine.node->CheckInvariants();
    }
  }
}

void StoryRunner::Carry(const Statement& statement) {
  if (statement.after_ns) WaitUntil(kernel_.now_ns() + *statement.after_ns);
  if (statement.at_ns) {
    const Nanos late_ns = kernel_.now_ns() - (begun_ns_ + *statement.at_ns);
    if (late_ns > 0) return Fail(statement, fmt::format("that time passed {} us ago", late_ns / kMicrosecond));
    WaitUntil(begun_ns_ + *statement.at_ns);
  }
  if (CarryNetwork(statement) || CarryMachine(statement) || CarryDisk(statement) || CarryOperation(statement)) return;
  switch (statement.kind) {
    case Kind::kWork: return Work(statement);
    case Kind::kWorkStop: return StopClients(statement);
    case Kind::kWait: return WaitUntil(kernel_.now_ns() + statement.Number("time"));
    default: CHECK(false) << "nothing carries out: " << statement.text;
  }
}

// -- names

StoryRunner::Machine& StoryRunner::MachineOf(const std::string& name) {
  auto it = machines_.find(name);
  if (it != machines_.end()) return it->second;
  Machine& machine = machines_[name];
  const int number = static_cast<int>(machines_.size());
  machine.sim = kernel_.AddMachine(fmt::format("10.0.{}.{}", number / 200, 1 + number % 200));
  return machine;
}

SimClient& StoryRunner::ClientOf(int id) {
  auto it = clients_.find(id);
  if (it != clients_.end()) return *it->second;
  SimMachine* machine = MachineOf(fmt::format("client{}", id)).sim;
  auto client = std::make_unique<SimClient>(id, machine->Boot(), &history_, random_.Next());
  client->SetServer(MachineOf(first_machine_).sim->host(), SimNodeOptions().port);
  return *(clients_[id] = std::move(client));
}

std::vector<std::string> StoryRunner::Hosts(const std::string& name) {
  std::vector<std::string> hosts;
  if (name != "clients") return {MachineOf(name).sim->host()};
  for (const auto& [id, client] : clients_) hosts.push_back(MachineOf(fmt::format("client{}", id)).sim->host());
  return hosts;
}

// -- the network

bool StoryRunner::CarryNetwork(const Statement& s) {
  SimNetwork& network = kernel_.network();
  std::function<void(const std::string&, const std::string&)> fault;
  bool both = false;
  switch (s.kind) {
    case Kind::kCutBoth: both = true; [[fallthrough]];
    case Kind::kCut: fault = [&](auto& from, auto& to) { network.Cut(from, to); }; break;
    case Kind::kHealBoth: both = true; [[fallthrough]];
    case Kind::kHealOne: fault = [&](auto& from, auto& to) { network.Heal(from, to); }; break;
    case Kind::kDelay:
      fault = [&](auto& from, auto& to) { network.SetLatency(from, to, s.Number("low"), s.Number("high")); };
      break;
    case Kind::kHold:
      fault = [&](auto& from, auto& to) { network.Hold(from, to, kernel_.now_ns() + s.Number("time")); };
      break;
    case Kind::kReset: fault = [&](auto& from, auto& to) { network.ResetConnections(from, to); }; break;
    case Kind::kForget:
      for (const std::string& machine : Hosts(s.Word("machine"))) {
        for (const std::string& peer : Hosts(s.Word("peer"))) network.Forget(machine, peer);
      }
      return true;
    case Kind::kHeal: network.HealAll(); return true;
    default: return false;
  }
  for (const std::string& from : Hosts(s.Word("from"))) {
    for (const std::string& to : Hosts(s.Word("to"))) {
      fault(from, to);
      if (both) fault(to, from);
    }
  }
  return true;
}

// -- machines

bool StoryRunner::CarryMachine(const Statement& s) {
  if (s.kind == Kind::kPowerLossEverywhere) {
    for (auto& [name, machine] : machines_) {
      if (!IsClient(name)) Crash(&machine, true);
    }
    return true;
  }
  if (s.kind < Kind::kStart || (s.kind > Kind::kPowerLoss && s.kind < Kind::kPause) || s.kind > Kind::kClockJump) {
    return false;
  }
  const std::string& name = s.Word("machine");
  if (IsClient(name) && s.kind <= Kind::kPowerLoss) return Fail(s, "the machines of clients always run"), true;
  Machine& machine = MachineOf(name);
  switch (s.kind) {
    case Kind::kStart: Start(s, &machine); break;
    case Kind::kStop: Stop(s, &machine); break;
    case Kind::kCrash: Crash(&machine, false); break;
    case Kind::kPowerLoss: Crash(&machine, true); break;
    case Kind::kPause: machine.sim->Pause(s.Number("time")); break;
    case Kind::kFreeze: machine.sim->Freeze(s.Number("time")); break;
    case Kind::kPauseInTurn:
      machine.sim->PauseInTurn(s.Number("time"), s.Has("calls") ? static_cast<uint64_t>(s.Number("calls")) : 0);
      break;
    case Kind::kClockRate: machine.sim->SetClockRate(s.Number("rate")); break;
    default: machine.sim->JumpWallClock(s.Number("shift") / kMillisecond); break;
  }
  return true;
}

void StoryRunner::Start(const Statement& s, Machine* machine) {
  if (machine->node != nullptr) return;
  if (first_machine_.empty()) first_machine_ = s.Word("machine");
  if (s.Has("reactors")) machine->reactors = static_cast<uint32_t>(s.Number("reactors"));
  SimNodeOptions options;
  options.store.reactors = machine->reactors;
  machine->sim->Boot(static_cast<int>(machine->reactors));
  machine->node = Keep(std::make_unique<SimNode>(machine->sim, options));
  Pending<Status> started = Begin(machine->node->Start());
  // A node that takes longer, perhaps because its disk hangs, goes on starting.
  kernel_.RunUntil([&] { return started->has_value(); }, kernel_.now_ns() + kStartWithinNs);
  if (started->has_value() && !(*started)->ok()) Fail(s, "the node did not start: " + (*started)->ToString());
}

void StoryRunner::Stop(const Statement& s, Machine* machine) {
  if (machine->node == nullptr || !machine->node->serving()) return;
  Pending<Status> stopped = Begin(machine->node->Stop());
  kernel_.RunUntil([&] { return stopped->has_value(); }, kernel_.now_ns() + kStopWithinNs);
  if (!stopped->has_value()) return Fail(s, "the node does not stop");
  if (!(*stopped)->ok() && machine->node->failure().ok()) {
    return Fail(s, "the node did not stop cleanly: " + (*stopped)->ToString());
  }
  machine->sim->ProcessCrash(random_.Next());  // the process ends
  machine->node = nullptr;
}

void StoryRunner::Crash(Machine* machine, bool power) {
  const uint64_t seed = random_.Next();
  crashes_ += machine->node != nullptr;
  if (power) {
    machine->sim->PowerLoss(seed);  // also takes the page cache of a machine whose process is gone
  } else if (machine->sim->running()) {
    machine->sim->ProcessCrash(seed);
  }
  machine->node = nullptr;
}

// -- disks

bool StoryRunner::CarryDisk(const Statement& s) {
  if (s.kind < Kind::kDiskSlow || s.kind > Kind::kRestore) return false;
  Machine& machine = MachineOf(s.Word("machine"));
  SimMachine* sim = machine.sim;
  switch (s.kind) {
    case Kind::kDiskSlow: sim->SetDiskLatency(s.Number("low"), s.Number("high")); break;
    case Kind::kDiskHangs: sim->HangDisk(SimMachine::DiskHang::kAll); break;
    case Kind::kSyncsHang: sim->HangDisk(SimMachine::DiskHang::kSyncs); break;
    case Kind::kDiskRecovers:
      sim->ReleaseDisk();
      sim->SetDiskLatency(0, 0);
      sim->ClearFaults();
      break;
    case Kind::kDiskFull: sim->FillDisk(); break;
    case Kind::kDiskRoom: sim->EmptyDisk(); break;
    case Kind::kSyncsFail: sim->AddFault(SyncFault(0, static_cast<uint64_t>(s.Number("count")))); break;
    case Kind::kSyncsLie: sim->LieAboutSyncs(true); break;
    case Kind::kImage: machine.images[s.Word("image")] = sim->Image(random_.Next()); break;
    default: Rollback(s, &machine); break;
  }
  return true;
}

void StoryRunner::Rollback(const Statement& s, Machine* machine) {
  auto image = machine->images.find(s.Word("image"));
  if (image == machine->images.end()) return Fail(s, "there is no such image of this machine");
  if (machine->sim->running()) return Fail(s, "the machine runs; let it lose power first");
  machine->sim->disk() = image->second;
}

// -- clients

Operation StoryRunner::OperationOf(const Statement& s) const {
  Operation op;
  op.key = s.Word("key");
  switch (s.kind) {
    case Kind::kGet: op.kind = Operation::Kind::kGet; break;
    case Kind::kPut:
      op.kind = Operation::Kind::kPut;
      op.value = s.Word("value");
      break;
    case Kind::kRemove: op.kind = Operation::Kind::kRemove; break;
    case Kind::kSwap:
      op.kind = Operation::Kind::kSwap;
      op.expected = s.Value("expected");
      op.value = s.Word("value");
      break;
    default:
      op.kind = Operation::Kind::kAdd;
      op.delta = s.Number("delta");
      break;
  }
  return op;
}

bool StoryRunner::CarryOperation(const Statement& s) {
  if (s.kind < Kind::kGet || s.kind > Kind::kAdd) return false;
  if (first_machine_.empty()) return Fail(s, "no machine was started before"), true;
  Pending<Done> done = Begin(DoOperation(&ClientOf(static_cast<int>(s.Number("client"))), OperationOf(s)));
  if (s.meanwhile) return true;
  kernel_.RunUntil([&] { return done->has_value(); }, kernel_.now_ns() + kAnswerWithinNs);
  if (!done->has_value()) return Fail(s, "the client waits for ever"), true;
  Judge(s, (*done)->outcome, (*done)->answer, (*done)->error);
  return true;
}

void StoryRunner::Judge(const Statement& s, Outcome outcome, const Operation& answer, const std::string& error) {
  const bool failed = outcome == Outcome::kFailed || outcome == Outcome::kUnknown;
  switch (s.expected) {
    case Statement::Expected::kAnything: return;
    case Statement::Expected::kFailure:
      if (!failed) Fail(s, "it did not fail");
      return;
    case Statement::Expected::kRefusal:
      if (outcome != Outcome::kRefused) Fail(s, failed ? "it failed: " + error : "it was not refused");
      return;
    case Statement::Expected::kSuccess: break;
  }
  if (failed) return Fail(s, "it failed: " + error);
  if (outcome == Outcome::kRefused) return Fail(s, "it was refused: the record is " + answer.seen.value_or("nothing"));
  if (!s.Has("value")) return;
  if (s.kind == Kind::kGet && answer.seen != s.Value("value")) {
    Fail(s, "the value is " + answer.seen.value_or("nothing"));
  } else if (s.kind == Kind::kAdd && std::to_string(answer.number) != s.Word("value")) {
    Fail(s, fmt::format("the number is {}", answer.number));
  }
}

void StoryRunner::Work(const Statement& s) {
  if (first_machine_.empty()) return Fail(s, "no machine was started before");
  SimClient::Work work;
  work.keys = std::max(1, static_cast<int>(s.Number("keys")));
  for (int id = 1; id <= s.Number("clients"); ++id) {
    if (!ClientOf(id).working()) Begin(WorkAtRandom(&ClientOf(id), work));
  }
}

void StoryRunner::StopClients(const Statement& s) {
  for (auto& [id, client] : clients_) client->StopWork();
  auto idle = [&] {
    return std::none_of(clients_.begin(), clients_.end(), [](const auto& c) { return c.second->working(); });
  };
  kernel_.RunUntil(idle, kernel_.now_ns() + kStopWithinNs);
  if (!idle()) Fail(s, "a client waits for ever");
}

// -- the end

void StoryRunner::Finish(const Statement& last) {
  kernel_.network().HealAll();
  for (auto& [name, machine] : machines_) {
    machine.sim->ReleaseDisk();
    machine.sim->SetDiskLatency(0, 0);
    machine.sim->EmptyDisk();
    machine.sim->ClearFaults();
  }
  StopClients(last);
  if (first_machine_.empty() || !problem_.empty()) return;
  Machine& machine = MachineOf(first_machine_);
  if (machine.node != nullptr && !machine.node->failure().ok()) Crash(&machine, false);
  Start(last, &machine);
  kernel_.RunUntil([&] { return machine.node->serving(); }, kernel_.now_ns() + kStartWithinNs);
  if (!machine.node->serving()) return Fail(last, "the node does not come back");
  SimClient& reader = ClientOf(1);
  for (const std::string& key : history_.Keys()) {
    Operation get;
    get.key = key;
    for (int tries = 0;; ++tries) {
      Pending<Done> done = Begin(DoOperation(&reader, get));
      kernel_.RunUntil([&] { return done->has_value(); }, kernel_.now_ns() + kAnswerWithinNs);
      if (done->has_value() && (*done)->outcome == Outcome::kDone) break;
      if (tries == kLastReads || !done->has_value()) {
        return Fail(last,
                    fmt::format("key {} cannot be read: {}", key, done->has_value() ? (*done)->error : "no answer"));
      }
    }
  }
  LinearizabilityOptions options;
  options.zero_ns = begun_ns_;
  const Linearizability verdict = CheckLinearizable(history_, options);
  if (!verdict.ok()) return Fail(last, "the history is not linearizable\n" + verdict.why);
  for (auto& [id, client] : clients_) {
    Pending<bool> closed = Begin(CloseClient(client.get()));
    kernel_.RunUntil([&] { return closed->has_value(); }, kernel_.now_ns() + kStopWithinNs);
  }
  Stop(last, &machine);
  if (!problem_.empty()) return;
  SimReactor* reactor = machine.sim->Boot();
  auto audit = kernel_.RunTask(*reactor, AuditStore(*reactor, SimNodeOptions().store.data_dir));
  if (!audit || !audit->empty()) Fail(last, "page audit: " + audit.value_or("the machine stopped"));
}

}  // namespace pando
