#include "tests/support/sim_kernel.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "src/base/hash.h"

namespace pando {
namespace {

// Keeps the objects to which abandoned objects of stopped machines point.
void Bury(std::shared_ptr<void> thing) {
  static auto* graveyard = new std::vector<std::shared_ptr<void>>();
  graveyard->push_back(std::move(thing));
}

bool IsSync(const IoOp& op) {
  if (op.kind == IoOp::Kind::kSync) return true;
  return op.data_sync && (op.kind == IoOp::Kind::kWrite || op.kind == IoOp::Kind::kWritev);
}

bool Touches(const DiskFault& fault, const IoOp& op) {
  uint64_t bytes = op.length;
  if (op.kind == IoOp::Kind::kReadv || op.kind == IoOp::Kind::kWritev) {
    bytes = 0;
    for (uint32_t i = 0; i < op.length; ++i) bytes += static_cast<iovec*>(op.data)[i].iov_len;
  } else if (op.kind != IoOp::Kind::kRead && op.kind != IoOp::Kind::kWrite) {
    return true;
  }
  return op.offset <= fault.last_byte && op.offset + bytes > fault.first_byte;
}

}  // namespace

// -- the kernel

SimKernel::SimKernel(uint64_t seed, SimOptions options) : options_(options), random_(seed) {}
SimKernel::~SimKernel() = default;

SimMachine* SimKernel::AddMachine(std::string host) {
  CHECK(!machine(host)) << "machine " << host << " already exists";
  machines_.push_back(std::unique_ptr<SimMachine>(new SimMachine(this, std::move(host))));
  return machines_.back().get();
}

SimMachine* SimKernel::machine(const std::string& host) {
  for (auto& m : machines_) {
    if (m->host() == host) return m.get();
  }
  return nullptr;
}

void SimKernel::At(Nanos time_ns, uint64_t boot, std::function<void()> fire) {
  queue_.push_back({std::max(time_ns, now_ns_), next_sequence_++, boot, std::move(fire)});
  std::push_heap(queue_.begin(), queue_.end(), std::greater<>());
}

void SimKernel::Trace(uint64_t a, uint64_t b, uint64_t c) {
  const uint64_t words[] = {trace_hash_, static_cast<uint64_t>(now_ns_), a, b, c};
  trace_hash_ = Hash64({reinterpret_cast<const char*>(words), sizeof words});
}

uint64_t SimKernel::NewBoot() {
  boot_alive_.push_back(true);
  return boot_alive_.size() - 1;
}

bool SimKernel::TaskStopped(SimReactor& reactor) { return reactor.dead(); }

bool SimKernel::Step(Nanos deadline_ns) {
  while (!queue_.empty() && queue_.front().time_ns <= deadline_ns) {
    std::pop_heap(queue_.begin(), queue_.end(), std::greater<>());
    Event event = std::move(queue_.back());
    queue_.pop_back();
    if (!BootAlive(event.boot)) continue;
    now_ns_ = event.time_ns;
    ++events_;
    event.fire();
    return true;
  }
  return false;
}

SimKernel::Stopped SimKernel::RunUntil(const std::function<bool()>& done, Nanos deadline_ns) {
  for (;;) {
    if (done()) return Stopped::kPredicate;
    if (Step(deadline_ns)) continue;
    if (deadline_ns != kForever) now_ns_ = std::max(now_ns_, deadline_ns);
    return queue_.empty() ? Stopped::kIdle : Stopped::kDeadline;
  }
}

SimKernel::Stopped SimKernel::RunUntilIdle(Nanos deadline_ns) {
  return RunUntil([] { return false; }, deadline_ns);
}

void SimKernel::RunFor(Nanos duration_ns) { RunUntilIdle(now_ns_ + duration_ns); }

// -- machines

SimMachine::~SimMachine() = default;

SimReactor* SimMachine::Boot(int count) {
  CHECK(!running_) << host_ << " is already running";
  running_ = answers_ = true;
  if (std::exchange(lost_power_, false) && kernel_->options().boot_clock_restarts) {
    clock_.Reboot(kernel_->now_ns(), kernel_->random().Between(5, 60) * kSecond);
  }
  boot_ = kernel_->NewBoot();
  mesh_ = std::make_unique<RemoteMesh>(count, kernel_->options().remote_capacity);
  pool_free_ns_.assign(static_cast<size_t>(kernel_->options().offload_threads), 0);
  for (int i = 0; i < count; ++i) {
    reactors_.push_back(
        std::unique_ptr<SimReactor>(new SimReactor(kernel_, this, boot_, i, mesh_.get(), kernel_->random().Next())));
  }
  return reactors_[0].get();
}

SimReactor* SimMachine::reactor(int index) { return reactors_.at(index).get(); }

int64_t SimMachine::WallMs() const { return clock_.WallMs(kernel_->now_ns()); }
Nanos SimMachine::BootNs() const { return clock_.BootNs(kernel_->now_ns()); }

void SimMachine::RearmTimers() {
  for (auto& reactor : reactors_) {
    if (!reactor->timers_.empty()) reactor->ScheduleTurn(clock_.TrueTimeOf(reactor->timers_.next_deadline_ns()));
  }
}

void SimMachine::SetClockRate(int64_t ppm) {
  clock_.SetRate(kernel_->now_ns(), ppm);
  RearmTimers();
}

void SimMachine::Pause(Nanos duration_ns) {
  paused_until_ns_ = std::max(paused_until_ns_, kernel_->now_ns() + duration_ns);
  kernel_->Trace(5000, static_cast<uint64_t>(duration_ns));
}

void SimMachine::Freeze(Nanos duration_ns) {
  Pause(duration_ns);
  clock_.StandStill(kernel_->now_ns(), kernel_->now_ns() + duration_ns);
  RearmTimers();
}

Nanos SimMachine::TakeTurnPause() {
  if (turn_pause_ns_ == 0) return 0;
  if (turn_pause_calls_ > 0) {
    --turn_pause_calls_;
    return 0;
  }
  return std::exchange(turn_pause_ns_, 0);
}

void SimMachine::Stop(bool silent) {
  if (!running_) return;
  running_ = false;
  kernel_->EndBoot(boot_);
  for (const PendingOp& pending : pending_) {
    if (auto described = Describe(pending)) disk_.AddInFlight(*std::move(described));
    pending.reactor->completed_.push_back(pending.op);  // never delivered; keeps it reachable (K3)
  }
  pending_.clear();
  hung_.clear();
  paused_until_ns_ = turn_pause_ns_ = 0;
  kernel_->network().OnMachineStopped(this, silent);
  for (auto& reactor : reactors_) {
    reactor->Kill();
    Bury(std::move(reactor));
  }
  reactors_.clear();
  Bury(std::move(mesh_));
}

void SimMachine::PowerLoss(uint64_t seed) {
  Stop(/*silent=*/true);
  answers_ = false;
  lost_power_ = true;
  disk_.PowerLoss(seed);
}

void SimMachine::ProcessCrash(uint64_t seed) {
  Stop(/*silent=*/false);
  disk_.ProcessCrash(seed);
}

// -- disk operations

void SimMachine::SubmitDisk(SimReactor* reactor, IoOp* op) {
  PendingOp pending{next_op_id_++, op, reactor, {}};
  if (op->kind == IoOp::Kind::kSync) pending.sync = disk_.BeginSync(reactor->files_[op->file].inode);
  pending_.push_back(std::move(pending));
  kernel_->Trace(static_cast<uint64_t>(op->kind), static_cast<uint64_t>(op->file), op->offset);
  if (++disk_ops_ == crash_at_) return Stop(/*silent=*/true);
  const SimOptions& options = kernel_->options();
  const Nanos max_ns = disk_max_ns_ ? disk_max_ns_ : options.disk_max_ns;
  Nanos when = kernel_->now_ns() + kernel_->Latency(disk_max_ns_ ? disk_min_ns_ : options.disk_min_ns, max_ns);
  if (disk_stalled_until_ > when) when = disk_stalled_until_ + kernel_->Latency(0, max_ns);
  kernel_->At(when, boot_, [this, id = pending_.back().id] { CompleteDisk(id); });
}

bool SimMachine::Hangs(const IoOp& op) const {
  return disk_hang_ == DiskHang::kAll || (disk_hang_ == DiskHang::kSyncs && IsSync(op));
}

void SimMachine::ReleaseDisk() {
  disk_hang_ = DiskHang::kNone;
  for (uint64_t id : std::exchange(hung_, {})) {
    const Nanos when = kernel_->now_ns() + kernel_->Latency(0, kernel_->options().disk_max_ns);
    kernel_->At(when, boot_, [this, id] { CompleteDisk(id); });
  }
}

SimDisk SimMachine::Image(uint64_t seed) const {
  SimDisk image = disk_;
  for (const PendingOp& pending : pending_) {
    if (auto described = Describe(pending)) image.AddInFlight(*std::move(described));
  }
  image.PowerLoss(seed);
  return image;
}

void SimMachine::CompleteDisk(uint64_t id) {
  auto it = std::find_if(pending_.begin(), pending_.end(), [id](const PendingOp& p) { return p.id == id; });
  CHECK(it != pending_.end());
  if (Hangs(*it->op)) return hung_.push_back(id);
  PendingOp pending = std::move(*it);
  pending_.erase(it);
  pending.op->result = Perform(pending);
  kernel_->Trace(1000 + static_cast<uint64_t>(pending.op->kind), static_cast<uint64_t>(pending.op->result));
  pending.reactor->Completed(pending.op);
}

// The current path for a path of the operation, whose directory may have been moved since it was
// opened. "" if the directory was removed.
std::string SimMachine::PathOf(const PendingOp& pending, const char* path) const {
  const FileId directory = pending.op->directory;
  if (directory == kNoFile) return path;
  const std::string base = disk_.DirectoryPath(pending.reactor->files_[directory].inode);
  return base.empty() ? "" : base + "/" + path;
}

int SimMachine::FaultFor(const PendingOp& pending) {
  const IoOp& op = *pending.op;
  const std::string path = op.path ? PathOf(pending, op.path) : pending.reactor->files_[op.file].path;
  for (DiskFault& fault : faults_) {
    if (fault.kind && *fault.kind != op.kind) continue;
    if (fault.syncs_only && !IsSync(op)) continue;
    if (path.find(fault.path_contains) == std::string::npos || !Touches(fault, op)) continue;
    if (!fault.path.empty() && fault.path != path) continue;
    if (fault.skip > 0) {
      --fault.skip;
      continue;
    }
    if (fault.count == 0) continue;
    if (fault.count != UINT64_MAX) --fault.count;
    ++faults_struck_;
    return fault.error_number;
  }
  return 0;
}

int32_t SimMachine::Perform(const PendingOp& pending) {
  const IoOp& op = *pending.op;
  const int error = FaultFor(pending);
  const std::string path = op.path ? PathOf(pending, op.path) : "";
  if (op.path && path.empty()) return -ENOENT;
  switch (op.kind) {
    case IoOp::Kind::kOpen: {
      if (error) return -error;
      if ((op.flags & O_DIRECT) && kernel_->options().refuse_direct_io) return -EINVAL;
      const int64_t inode = disk_.Open(path, op.flags);
      if (inode < 0) return static_cast<int32_t>(inode);
      return pending.reactor->AddFile({true, static_cast<SimDisk::InodeId>(inode), op.flags, false, path});
    }
    case IoOp::Kind::kRename: {
      if (error) return -error;
      const std::string other = PathOf(pending, op.new_path);
      return op.flags == RENAME_EXCHANGE ? disk_.Exchange(path, other) : disk_.Rename(path, other);
    }
    case IoOp::Kind::kLink: return error ? -error : disk_.Link(path, PathOf(pending, op.new_path));
    case IoOp::Kind::kUnlink: return error ? -error : disk_.Unlink(path);
    case IoOp::Kind::kMakeDirectory: return error ? -error : disk_.MakeDirectory(path);
    default: break;
  }
  if (error && op.kind == IoOp::Kind::kSync) {
    disk_.FailSync(pending.reactor->files_[op.file].inode, pending.sync);
  } else if (error && op.kind == IoOp::Kind::kClose) {
    PerformOnFile(pending);  // close(2) closes the file even when it reports an error
  }
  return error ? -error : PerformOnFile(pending);
}

int32_t SimMachine::PerformOnFile(const PendingOp& pending) {
  const IoOp& op = *pending.op;
  SimReactor::OpenFile& file = pending.reactor->files_[op.file];
  switch (op.kind) {
    case IoOp::Kind::kClose:
      disk_.CloseInode(file.inode);
      file = {};
      return 0;
    case IoOp::Kind::kSync:
      if (!disk_lies_) disk_.CompleteSync(file.inode, pending.sync);
      return 0;
    case IoOp::Kind::kAllocate:
      if (op.flags == 0) return disk_.Allocate(file.inode, op.offset, op.allocate_bytes);
      CHECK_EQ(op.flags, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) << "this mode of fallocate is not simulated";
      if (kernel_->options().refuse_holes) return -EOPNOTSUPP;
      return disk_.PunchHole(file.inode, op.offset, op.allocate_bytes);
    case IoOp::Kind::kTruncate: return disk_.Truncate(file.inode, op.offset);
    default: return Transfer(pending);
  }
}

int32_t SimMachine::Transfer(const PendingOp& pending) {
  const IoOp& op = *pending.op;
  const SimDisk::InodeId inode = pending.reactor->files_[op.file].inode;
  const bool write = op.kind == IoOp::Kind::kWrite || op.kind == IoOp::Kind::kWritev;
  const bool vectored = op.kind == IoOp::Kind::kReadv || op.kind == IoOp::Kind::kWritev;
  iovec single{op.data, op.length};
  std::span<const iovec> vectors =
      vectored ? std::span<const iovec>(static_cast<iovec*>(op.data), op.length) : std::span<const iovec>(&single, 1);
  uint64_t budget = 0;
  for (const iovec& v : vectors) budget += v.iov_len;
  if (budget > SimDisk::kSectorBytes && kernel_->random().Chance(kernel_->options().short_transfer_probability)) {
    budget = (1 + kernel_->random().Below(budget / SimDisk::kSectorBytes)) * SimDisk::kSectorBytes;
  }
  int64_t done = 0;
  for (const iovec& v : vectors) {
    const size_t want = std::min<uint64_t>(v.iov_len, budget - done);
    if (want == 0) break;
    const uint64_t at = op.offset + done;
    auto* memory = static_cast<char*>(v.iov_base);
    const int64_t moved = write ? disk_.Write(inode, memory, want, at) : disk_.Read(inode, memory, want, at);
    if (moved < 0 && done == 0) return static_cast<int32_t>(moved);
    if (moved > 0) kernel_->Trace(Hash64({memory, static_cast<size_t>(moved)}), at);
    done += std::max<int64_t>(moved, 0);
    if (moved < static_cast<int64_t>(want)) break;
  }
  if (write && op.data_sync && done > 0 && !disk_lies_) disk_.MakeDurable(inode, op.offset, done);
  return static_cast<int32_t>(done);
}

// Copies what an operation in flight would do out of memory that is abandoned with the machine.
std::optional<SimDisk::InFlight> SimMachine::Describe(const PendingOp& pending) const {
  using Kind = SimDisk::InFlight::Kind;
  const IoOp& op = *pending.op;
  SimDisk::InFlight out{};
  if (op.file != kNoFile) out.inode = pending.reactor->files_[op.file].inode;
  out.offset = op.offset;
  if (op.path) {
    out.path = PathOf(pending, op.path);
    if (out.path.empty()) return std::nullopt;
  }
  if (op.new_path) out.new_path = PathOf(pending, op.new_path);
  switch (op.kind) {
    case IoOp::Kind::kWrite:
      out.kind = Kind::kWrite;
      out.data.assign(static_cast<const char*>(op.data), op.length);
      return out;
    case IoOp::Kind::kWritev:
      out.kind = Kind::kWrite;
      for (uint32_t i = 0; i < op.length; ++i) {
        const iovec& v = static_cast<const iovec*>(op.data)[i];
        out.data.append(static_cast<const char*>(v.iov_base), v.iov_len);
      }
      return out;
    case IoOp::Kind::kSync:
      out.kind = Kind::kSync;
      out.sync = pending.sync;
      return out;
    case IoOp::Kind::kAllocate:
      out.kind = op.flags == 0 ? Kind::kAllocate : Kind::kPunchHole;
      out.bytes = op.allocate_bytes;
      return out;
    case IoOp::Kind::kTruncate: out.kind = Kind::kTruncate; return out;
    case IoOp::Kind::kRename: out.kind = op.flags == RENAME_EXCHANGE ? Kind::kExchange : Kind::kRename; return out;
    case IoOp::Kind::kLink: out.kind = Kind::kLink; return out;
    case IoOp::Kind::kUnlink: out.kind = Kind::kUnlink; return out;
    case IoOp::Kind::kMakeDirectory: out.kind = Kind::kMakeDirectory; return out;
    case IoOp::Kind::kOpen:
      if (!(op.flags & O_CREAT)) return std::nullopt;
      out.kind = Kind::kCreate;
      return out;
    default: return std::nullopt;
  }
}

}  // namespace pando
