#include "tests/support/sim_reactor.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "src/base/limits.h"
#include "tests/support/sim_kernel.h"

namespace pando {
namespace {

bool IsTransfer(IoOp::Kind kind) {
  return kind == IoOp::Kind::kRead || kind == IoOp::Kind::kWrite || kind == IoOp::Kind::kReadv ||
         kind == IoOp::Kind::kWritev;
}
bool IsVector(IoOp::Kind kind) { return kind == IoOp::Kind::kReadv || kind == IoOp::Kind::kWritev; }
bool IsByPath(IoOp::Kind kind) {
  return kind == IoOp::Kind::kOpen || kind == IoOp::Kind::kRename || kind == IoOp::Kind::kLink ||
         kind == IoOp::Kind::kUnlink || kind == IoOp::Kind::kMakeDirectory;
}

}  // namespace

SimReactor::SimReactor(SimKernel* kernel, SimMachine* machine, uint64_t boot, int index, RemoteMesh* mesh,
                       uint64_t seed)
    : kernel_(kernel),
      machine_(machine),
      boot_(boot),
      index_(index),
      random_(seed),
      secrets_(~seed),
      next_turn_ns_(kForever),
      port_(mesh, index, this, static_cast<RemoteWaker*>(this)) {
  port_.PrepareSleep();
}

SimReactor::~SimReactor() = default;

Nanos SimReactor::ActsAtNs() const { return kernel_->now_ns() + ahead_ns_; }
Nanos SimReactor::NowNs() const {
  PausePoint();
  return dead_ || in_turn_ ? turn_now_ns_ : machine_->BootNs();
}
Nanos SimReactor::FreshNowNs() const {
  PausePoint();
  return dead_ ? turn_now_ns_ : machine_->clock_.BootNs(ActsAtNs());
}
int64_t SimReactor::WallMs() const {
  PausePoint();
  return dead_ ? 0 : machine_->clock_.WallMs(ActsAtNs());
}

void SimReactor::PausePoint() const {
  if (dead_ || !pausable_) return;
  const Nanos pause_ns = machine_->TakeTurnPause();
  if (pause_ns == 0) return;
  ahead_ns_ += pause_ns;
  kernel_->Trace(6000, static_cast<uint64_t>(pause_ns));
  machine_->paused_until_ns_ = std::max(machine_->paused_until_ns_, ActsAtNs());
}

void SimReactor::FillRandom(std::span<std::byte> bytes) {
  CheckNotOffloaded();
  PausePoint();
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(secrets_.Next() >> 56);
}

void SimReactor::ArmTimer(Timer* timer, Nanos deadline_ns) {
  // In the turn in which the machine stops, timers that are due fire. What they wait for next never comes.
  if (dead_) return lost_timers_.push_back(timer);
  CheckNotOffloaded();
  PausePoint();
  timers_.Arm(timer, deadline_ns);
  if (!in_turn_) ScheduleTurn(machine_->clock_.TrueTimeOf(deadline_ns));
}

void SimReactor::CancelTimer(Timer* timer) {
  PausePoint();
  if (!dead_) timers_.Cancel(timer);
}

void SimReactor::Schedule(std::coroutine_handle<> h) {
  CheckNotOffloaded();
  PausePoint();
  queues_.Schedule(h);
  Poke();
}

void SimReactor::ArmTurnHook(TurnHook* hook) {
  queues_.ArmHook(hook);
  Poke();
}

// -- disk

void SimReactor::CheckTransfer(const IoOp& op) const {
  const OpenFile& file = files_[op.file];
  const bool write = op.kind == IoOp::Kind::kWrite || op.kind == IoOp::Kind::kWritev;
  CHECK(!write || (file.flags & O_ACCMODE) != O_RDONLY) << "write to " << file.path << ", which is open for reading";
  iovec single{op.data, op.length};
  std::span<const iovec> vectors = IsVector(op.kind) ? std::span<const iovec>(static_cast<iovec*>(op.data), op.length)
                                                     : std::span<const iovec>(&single, 1);
  for (const iovec& v : vectors) {
    if (file.flags & O_DIRECT) {
      CHECK(reinterpret_cast<uintptr_t>(v.iov_base) % kBlockBytes == 0 && v.iov_len % kBlockBytes == 0 &&
            op.offset % kBlockBytes == 0)
          << "unaligned O_DIRECT transfer of " << v.iov_len << " bytes at " << v.iov_base << ", offset " << op.offset
          << " of " << file.path;
    }
    // Garbage until completion (K2): a caller that looks too early, or ignores a short read, sees
    // it.
    if (!write) std::memset(v.iov_base, 0xa5, v.iov_len);
  }
  if (op.buffer_index == kNoBuffer) return;
  CHECK(!IsVector(op.kind)) << "a vectored transfer cannot use a registered buffer";
  CHECK_LT(static_cast<size_t>(op.buffer_index), registered_.size()) << "there is no registered buffer of this index";
  const iovec& region = registered_[op.buffer_index];
  const char* begin = static_cast<const char*>(region.iov_base);
  const char* data = static_cast<const char*>(op.data);
  CHECK(data >= begin && data + op.length <= begin + region.iov_len)
      << "the memory of a transfer is not inside registered buffer " << op.buffer_index;
}

void SimReactor::Submit(IoOp* op) {
  if (dead_) return completed_.push_back(op);  // never delivered; keeps it reachable (K3)
  CheckNotOffloaded();
  op->result = 0;
  if (!IsByPath(op->kind)) {
    CHECK(op->file >= 0 && static_cast<size_t>(op->file) < files_.size() && files_[op->file].open)
        << "operation on file " << op->file << ", which is not open";
  }
  if (IsTransfer(op->kind)) CheckTransfer(*op);
  PausePoint();
  if (ahead_ns_ == 0) return machine_->SubmitDisk(this, op);
  late_ops_.push_back(op);
  kernel_->At(ActsAtNs(), boot_, [this, op] {
    std::erase(late_ops_, op);
    machine_->SubmitDisk(this, op);
  });
}

FileId SimReactor::AddFile(OpenFile file) {
  for (size_t i = 0; i < files_.size(); ++i) {
    if (files_[i].open) continue;
    files_[i] = std::move(file);
    return static_cast<FileId>(i);
  }
  files_.push_back(std::move(file));
  return static_cast<FileId>(files_.size() - 1);
}

size_t SimReactor::open_files() const {
  size_t count = 0;
  for (const OpenFile& file : files_) count += file.open;
  return count;
}

void SimReactor::Completed(IoOp* op) {
  completed_.push_back(op);
  ScheduleTurn(kernel_->now_ns());
}

int SimReactor::RegisterBuffers(std::span<const iovec> regions) {
  registered_.clear();  // those of an earlier pool are gone
  if (dead_ || kernel_->options().refuse_locked_memory) return kNoBuffer;
  for (const iovec& region : regions) CHECK_LE(region.iov_len, size_t{1} << 30) << "region over 1 GiB";
  registered_.assign(regions.begin(), regions.end());
  return 0;
}

Result<std::vector<std::string>> SimReactor::ListDirectory(const std::string& path) {
  if (dead_) return Error(Code::kIoError, "the machine has stopped");
  return machine_->disk().List(path);
}

Result<std::vector<std::string>> SimReactor::ListDirectory(FileId directory, const std::string& path) {
  if (dead_) return Error(Code::kIoError, "the machine has stopped");
  const std::string now = machine_->disk().DirectoryPath(files_.at(directory).inode);
  if (now.empty()) return ErrnoError(ENOENT, "list directory {}", path);
  return machine_->disk().List(now);
}

Result<FileIdentity> SimReactor::Identify(FileId file, const std::string& name, const std::string& path) {
  if (dead_) return Error(Code::kIoError, "the machine has stopped");
  if (file == kNoFile) {
    const SimDisk::InodeId found = machine_->disk().Find(name);
    if (found == 0) return ErrnoError(ENOENT, "find {}", path);
    return FileIdentity{1, found};
  }
  const SimDisk::InodeId base = files_.at(file).inode;
  if (name.empty()) return FileIdentity{1, base};
  const std::string now = machine_->disk().DirectoryPath(base);
  const SimDisk::InodeId found = now.empty() ? 0 : machine_->disk().Find(now + "/" + name);
  if (found == 0) return ErrnoError(ENOENT, "find {}", path);
  return FileIdentity{1, found};
}

Result<uint64_t> SimReactor::FileSize(FileId file) {
  if (dead_) return Error(Code::kIoError, "the machine has stopped");
  return machine_->disk().Size(files_.at(file).inode);
}

Status SimReactor::LockFile(FileId file, const std::string& path) {
  if (dead_) return Error(Code::kIoError, "the machine has stopped");
  OpenFile& mine = files_.at(file);
  for (const auto& reactor : machine_->reactors_) {
    for (const OpenFile& other : reactor->files_) {
      if (&other == &mine || !other.open || !other.locked || other.inode != mine.inode) continue;
      return Error(Code::kLocked, "{} is locked by another process that has it open; stop that process first", path);
    }
  }
  mine.locked = true;
  return {};
}

// -- network and other reactors

Result<uint16_t> SimReactor::Listen(const ListenOptions& options, AcceptHandler* handler) {
  if (dead_) return Error(Code::kIoError, "the machine has stopped");
  return kernel_->network().Listen(this, options, handler);
}

void SimReactor::StopListening(AcceptHandler* handler) {
  std::erase_if(network_.listeners, [=](const auto& l) { return l.handler == handler; });
}

Task<Result<Connection*>> SimReactor::Connect(std::string host, uint16_t port, Nanos timeout_ns) {
  return kernel_->network().Connect(this, std::move(host), port, timeout_ns);
}

void SimReactor::CallRemote(int target, RemoteCall* call) {
  port_.Call(target, call);
  Poke();
}

void SimReactor::Return(RemoteCall* call) {
  port_.Return(call);
  Poke();
}

// -- offloaded work

OffloadPort& SimReactor::offload() {
  if (!offload_) offload_ = std::make_unique<OffloadPort>(this, static_cast<OffloadPort::Workers*>(this));
  return *offload_;
}

void SimReactor::StartOffload(OffloadCall* call) {
  if (dead_) return;
  CheckNotOffloaded();
  PausePoint();
  offload().Add(call);
}

void SimReactor::RunWork(OffloadCall* call) {
  const SimOptions& options = kernel_->options();
  Nanos& free_ns = *std::min_element(machine_->pool_free_ns_.begin(), machine_->pool_free_ns_.end());
  const Nanos begins_ns = std::max(free_ns, ActsAtNs());
  free_ns = begins_ns + kernel_->Latency(options.offload_min_ns, options.offload_max_ns);
  call->begun_ns = machine_->clock_.BootNs(begins_ns);
  call->ended_ns = machine_->clock_.BootNs(free_ns);
  in_pool_.push_back(call);
  kernel_->At(free_ns, boot_, [this, call] { DoWork(call); });
}

void SimReactor::DoWork(OffloadCall* call) {
  if (machine_->paused_until_ns_ > kernel_->now_ns()) {  // so are the threads of the pool
    return kernel_->At(machine_->paused_until_ns_, boot_, [this, call] { DoWork(call); });
  }
  kernel_->Trace(4000 + static_cast<uint64_t>(index_), boot_);
  working_ = true;
  call->Work();
  working_ = false;
  std::erase(in_pool_, call);
  worked_.push_back(call);
  ScheduleTurn(kernel_->now_ns());
}

void SimReactor::Wake() {
  if (dead_) return;
  const SimOptions& options = kernel_->options();
  ScheduleTurn(kernel_->now_ns() + kernel_->Latency(options.remote_min_ns, options.remote_max_ns));
}

// -- turns

void SimReactor::Poke() {
  if (!in_turn_) ScheduleTurn(kernel_->now_ns());
}

void SimReactor::ScheduleTurn(Nanos time_ns) {
  if (dead_) return;
  time_ns = std::max({time_ns, busy_until_ns_, machine_->paused_until_ns_, kernel_->now_ns()});
  if (next_turn_ns_ <= time_ns) return;
  next_turn_ns_ = time_ns;
  kernel_->At(time_ns, boot_, [this, time_ns] {
    if (next_turn_ns_ != time_ns) return;  // an earlier turn replaced this one
    next_turn_ns_ = kForever;
    if (machine_->paused_until_ns_ > time_ns) return ScheduleTurn(time_ns);  // paused since it was scheduled
    Turn();
  });
}

void SimReactor::Turn() {
  CHECK(!in_turn_) << "a turn began inside another one";
  kernel_->Trace(2000 + static_cast<uint64_t>(index_), boot_, completed_.size());
  turn_now_ns_ = machine_->BootNs();
  in_turn_ = pausable_ = true;
  port_.Awake();
  delivering_.swap(completed_);
  for (IoOp* op : delivering_) {
    if (dead_) return;
    if (op->on_complete) {
      op->on_complete(op);
    } else {
      op->waiter.resume();
    }
  }
  delivering_.clear();
  if (!dead_) kernel_->network().Deliver(this);
  if (!dead_) queues_.RunReady();
  for (OffloadCall* call : std::exchange(worked_, {})) {
    if (dead_) {
      in_pool_.push_back(call);  // never delivered; keeps it reachable (K3)
    } else {
      call->Start();
    }
  }
  if (!dead_) port_.Poll();
  if (!dead_) timers_.FireDue(turn_now_ns_);
  if (!dead_) queues_.RunHooks();
  pausable_ = false;
  if (dead_) return;
  if (ahead_ns_ == 0) return EndTurn();
  busy_until_ns_ = ActsAtNs();
  kernel_->At(busy_until_ns_, boot_, [this] {
    ahead_ns_ = 0;
    EndTurn();
  });
}

void SimReactor::EndTurn() {
  kernel_->network().Flush(this);
  if (dead_) return;
  port_.FlushWakes();
  in_turn_ = false;
  const Nanos now = kernel_->now_ns();
  busy_until_ns_ = now + kernel_->Latency(kernel_->options().turn_max_ns / 8, kernel_->options().turn_max_ns);
  if (!queues_.empty() || !completed_.empty() || network_.has_work() || !port_.PrepareSleep()) ScheduleTurn(now);
  if (!timers_.empty()) ScheduleTurn(machine_->clock_.TrueTimeOf(timers_.next_deadline_ns()));
}

void SimReactor::Kill() {
  turn_now_ns_ = machine_->BootNs();
  ahead_ns_ = 0;
  pausable_ = false;
  dead_ = true;
}

void SimReactor::Run() {
  CHECK(!dead_) << "Run was called on a machine that has stopped";
  const SimKernel::Stopped stopped = kernel_->RunUntil([this] { return stop_ || dead_; });
  CHECK(stopped == SimKernel::Stopped::kPredicate) << "the simulation is stuck: no event is left";
  CHECK(!dead_) << "the machine stopped inside Run; use SimKernel::RunTask if it may stop";
  stop_ = false;
}

}  // namespace pando
