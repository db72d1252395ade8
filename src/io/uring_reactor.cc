#include "src/io/uring_reactor.h"

#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace pando {
namespace {

constexpr unsigned kSubmitEarly = 8;  // prepared operations that are submitted before the turn ends

Nanos ReadClock(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * kSecond + t.tv_nsec;
}

int ReadIoUringDisabled() {
  int value = -1;
  if (FILE* file = fopen("/proc/sys/kernel/io_uring_disabled", "r")) {
    if (fscanf(file, "%d", &value) != 1) value = -1;
    fclose(file);
  }
  return value;
}

}  // namespace

io_uring_sqe* UringCore::Sqe() {
  // Submit early, so that the device does not wait for the end of the turn: even with 64 reads in
  // flight it could become idle in that time.
  if (io_uring_sq_ready(&ring) >= kSubmitEarly) io_uring_submit(&ring);
  io_uring_sqe* sqe = io_uring_get_sqe(&ring);
  for (int attempt = 0; !sqe && attempt < 1000; ++attempt) {
    int rc = io_uring_submit(&ring);
    CHECK(rc >= 0 || rc == -EAGAIN || rc == -EBUSY || rc == -EINTR) << "io_uring_submit: " << strerror(-rc);
    sqe = io_uring_get_sqe(&ring);
  }
  CHECK(sqe) << "the kernel accepts no more submissions to io_uring";
  return sqe;
}

void UringCore::Cancel(uint64_t user_data) {
  io_uring_sqe* sqe = Sqe();
  io_uring_prep_cancel64(sqe, user_data, 0);
  io_uring_sqe_set_data64(sqe, static_cast<uint64_t>(UringTag::kIgnore));
}

Status ExplainUringRefusal(int error_number, int disabled) {
  if (error_number == ENOSYS) {
    return Error(Code::kUnsupported,
                 "io_uring is not available (ENOSYS): this kernel is built without it, or a sandbox hides it. Run on "
                 "Linux 6.0 or newer with CONFIG_IO_URING, or let the sandbox allow io_uring_setup, io_uring_enter and "
                 "io_uring_register");
  }
  if (error_number == EPERM && disabled == 2) {
    return Error(Code::kUnsupported,
                 "io_uring is disabled on this machine: kernel.io_uring_disabled = 2. Enable it with 'sysctl -w "
                 "kernel.io_uring_disabled=0' (and in /etc/sysctl.d, to make it permanent)");
  }
  if (error_number == EPERM && disabled == 1) {
    return Error(
        Code::kUnsupported,
        "io_uring is restricted to one group on this machine: kernel.io_uring_disabled = 1. Add this user to the "
        "group whose ID is in kernel.io_uring_group, or run 'sysctl -w kernel.io_uring_disabled=0'");
  }
  if (error_number == EPERM || error_number == EACCES) {
    return Error(
        Code::kUnsupported,
        "io_uring is refused ({}) although the kernel has it enabled, most likely by a container's seccomp profile. "
        "Use a profile that allows io_uring_setup, io_uring_enter and io_uring_register",
        error_number == EPERM ? "EPERM" : "EACCES");
  }
  if (error_number == ENOMEM) {
    return Error(Code::kUnsupported,
                 "io_uring could not lock the memory of its rings (ENOMEM): raise RLIMIT_MEMLOCK (ulimit -l, "
                 "LimitMEMLOCK= in a systemd unit)");
  }
  return ErrnoError(error_number, "set up io_uring");
}

Result<std::unique_ptr<Reactor>> MakeUringReactor(UringOptions options) {
  std::unique_ptr<UringReactor> reactor(new UringReactor(std::move(options)));
  RETURN_IF_ERROR(reactor->Init());
  return std::unique_ptr<Reactor>(std::move(reactor));
}

UringReactor::UringReactor(UringOptions options) : options_(options), network_(&core_, options.network) {}

Status UringReactor::Init() {
  // Try the fastest setup first and the simplest one last: older kernels return EINVAL for flags
  // they do not know.
  constexpr unsigned kBase = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  constexpr unsigned kSteps[] = {
      kBase | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN |
          IORING_SETUP_DEFER_TASKRUN,
      kBase | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
      kBase | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN,
      kBase,
  };
  int rc = -EINVAL;
  for (unsigned flags : kSteps) {
    io_uring_params params{};
    params.flags = flags;
    params.cq_entries = options_.completion_entries;
    rc = io_uring_queue_init_params(options_.submission_entries, &core_.ring, &params);
    if (rc == 0) {
      core_.stats.setup_flags = flags;
      break;
    }
    if (rc != -EINVAL) break;
    LOG(WARNING) << "the kernel refused io_uring setup flags " << flags << " (EINVAL); trying simpler ones";
  }
  if (rc < 0) return ExplainUringRefusal(-rc, ReadIoUringDisabled());
  ring_made_ = true;
  disk_.RegisterFileTable(options_.registered_files);

  wake_fd_ = eventfd(0, EFD_CLOEXEC);
  if (wake_fd_ < 0) return ErrnoError(errno, "create an eventfd for reactor {}", options_.index);
  if (getrandom(random_state_, sizeof random_state_, 0) != sizeof random_state_) {
    return ErrnoError(errno, "read random bytes for reactor {}", options_.index);
  }
  core_.now_ns = ReadClock(CLOCK_BOOTTIME);
  if (options_.mesh)
    port_ = std::make_unique<RemotePort>(options_.mesh, options_.index, this, static_cast<RemoteWaker*>(this));
  return {};
}

UringReactor::~UringReactor() {
  CHECK(!running_) << "a reactor was destroyed from inside its loop";
  if (OffloadPool* pool = own_pool_ ? own_pool_.get() : options_.offload_pool) pool->Leave(this);
  if (ring_made_) {
    network_.Shutdown();
    // The kernel may still write to the buffers of operations in flight, so wait for them, but not
    // longer than about a second.
    for (int i = 0; i < 100 && (disk_.in_flight() > 0 || network_.in_flight() > 0); ++i) {
      io_uring_submit(&core_.ring);
      __kernel_timespec timeout{.tv_sec = 0, .tv_nsec = 10 * kMillisecond};
      io_uring_cqe* first = nullptr;
      if (io_uring_wait_cqe_timeout(&core_.ring, &first, &timeout) != 0) continue;
      unsigned head, count = 0;
      io_uring_cqe* cqe;
      io_uring_for_each_cqe(&core_.ring, head, cqe) {
        ++count;
        // Network completions now only update counts. Disk completions would resume coroutines, so
        // they are dropped.
        auto tag = static_cast<UringTag>(cqe->user_data & kUringTagMask);
        if (tag != UringTag::kIoOp && tag != UringTag::kWake && tag != UringTag::kIgnore) Dispatch(*cqe);
        if (tag == UringTag::kIoOp) disk_.Forget();
      }
      io_uring_cq_advance(&core_.ring, count);
    }
    io_uring_queue_exit(&core_.ring);
  }
  if (wake_fd_ >= 0) close(wake_fd_);
}

Nanos UringReactor::ReadClockNs() { return ReadClock(CLOCK_BOOTTIME); }

int64_t UringReactor::WallMs() const { return ReadClock(CLOCK_REALTIME) / kMillisecond; }

uint64_t UringReactor::Random() {  // xoshiro256**, seeded from the kernel
  uint64_t* s = random_state_;
  const uint64_t result = std::rotl(s[1] * 5, 7) * 9;
  const uint64_t t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = std::rotl(s[3], 45);
  return result;
}

void UringReactor::FillRandom(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t filled = getrandom(bytes.data(), bytes.size(), 0);
    if (filled < 0 && errno == EINTR) continue;
    PCHECK(filled > 0) << "getrandom";  // it worked when the reactor started
    bytes = bytes.subspan(static_cast<size_t>(filled));
  }
}

void UringReactor::RunWork(OffloadCall* call) {
  OffloadPool* pool = options_.offload_pool;
  if (pool == nullptr) {
    if (!own_pool_) own_pool_ = std::make_unique<OffloadPool>();
    pool = own_pool_.get();
  }
  pool->Run(this, call);
}

Result<std::vector<std::string>> UringReactor::ListDirectory(const std::string& path) {
  return ListDirectoryBlocking(path);
}

void UringReactor::CallRemote(int target, RemoteCall* call) {
  CHECK(port_) << "this reactor has no mesh";
  port_->Call(target, call);
}

void UringReactor::Return(RemoteCall* call) {
  if (call->origin < 0) {  // posted from a thread without a reactor
    posted_returned_.push_back(call);
    return;
  }
  CHECK(port_) << "this reactor has no mesh";
  port_->Return(call);
}

void UringReactor::Post(RemoteCall* call) {
  call->origin = -1;
  call->target = options_.index;
  {
    std::lock_guard lock(posted_mutex_);
    posted_.push_back(call);
    has_posted_.store(true, std::memory_order_release);
  }
  Wake();
}

bool UringReactor::RunPosted() {
  std::vector<RemoteCall*> returned;
  returned.swap(posted_returned_);
  for (RemoteCall* call : returned) call->Finish();
  if (!has_posted_.load(std::memory_order_acquire)) return !returned.empty();
  std::vector<RemoteCall*> calls;
  {
    std::lock_guard lock(posted_mutex_);
    calls.swap(posted_);
    has_posted_.store(false, std::memory_order_release);
  }
  for (RemoteCall* call : calls) {
    call->target_reactor = this;
    call->Start();
  }
  return true;
}

void UringReactor::Wake() {
  uint64_t one = 1;
  // The write fails only if the counter is full, and then the reactor is already being woken.
  [[maybe_unused]] ssize_t written = write(wake_fd_, &one, sizeof one);
}

void UringReactor::Stop() {
  stop_.store(true, std::memory_order_release);
  Wake();
}

void UringReactor::ArmWakeRead() {
  if (wake_read_armed_) return;
  wake_read_armed_ = true;
  io_uring_sqe* sqe = core_.Sqe();
  io_uring_prep_read(sqe, wake_fd_, &wake_value_, sizeof wake_value_, 0);
  io_uring_sqe_set_data64(sqe, static_cast<uint64_t>(UringTag::kWake));
}

void UringReactor::Run() {
  CHECK(!running_) << "Run called from inside the loop";
  running_ = true;
  core_.now_ns = ReadClock(CLOCK_BOOTTIME);
  while (!stop_.load(std::memory_order_acquire)) Turn();
  stop_.store(false, std::memory_order_release);
  running_ = false;
}

void UringReactor::Turn() {
  ++core_.stats.turns_total;
  Reap();
  bool busy = disk_.has_finished();
  disk_.DeliverFinished();
  core_.queues.RunReady();
  busy |= RunPosted();
  if (port_) busy |= port_->Poll();
  core_.timers.FireDue(core_.now_ns);
  core_.queues.RunHooks();
  network_.Flush();
  if (port_) port_->FlushWakes();

  ArmWakeRead();  // after Reap, which may have consumed the last one; never sleep without it
  bool wait = !busy && core_.queues.empty() && !disk_.has_finished() && posted_returned_.empty() &&
              !has_posted_.load(std::memory_order_acquire) && !stop_.load(std::memory_order_acquire) &&
              !network_.has_work();
  if (wait && port_ && !port_->PrepareSleep()) {
    SubmitAndWait(false);
  } else {
    SubmitAndWait(wait);
    if (wait && port_) port_->Awake();
  }
  core_.now_ns = ReadClock(CLOCK_BOOTTIME);
}

void UringReactor::SubmitAndWait(bool wait) {
  int rc;
  if (!wait) {
    rc = io_uring_submit_and_get_events(&core_.ring);
  } else if (core_.timers.empty()) {
    ++core_.stats.waits_total;
    rc = io_uring_submit_and_wait(&core_.ring, 1);
  } else {
    ++core_.stats.waits_total;
    const Nanos delay = std::max<Nanos>(core_.timers.next_deadline_ns() - ReadClock(CLOCK_BOOTTIME), 0);
    __kernel_timespec timeout{.tv_sec = delay / kSecond, .tv_nsec = delay % kSecond};
    io_uring_cqe* cqe = nullptr;
    rc = io_uring_submit_and_wait_timeout(&core_.ring, &cqe, 1, &timeout, nullptr);
  }
  // EBUSY and EAGAIN mean that completions must be reaped first or that the kernel is short of
  // memory. The next turn tries again.
  CHECK(rc >= 0 || rc == -ETIME || rc == -EINTR || rc == -EBUSY || rc == -EAGAIN)
      << "io_uring submission failed: " << strerror(-rc);
}

void UringReactor::Reap() {
  // Entries go back to the kernel one batch at a time. The bound keeps a flood of completions from
  // delaying timers and hooks.
  constexpr unsigned kBatch = 128, kMaxPerTurn = 4096;
  io_uring_cqe* batch[kBatch];
  for (unsigned total = 0; total < kMaxPerTurn;) {
    unsigned count = io_uring_peek_batch_cqe(&core_.ring, batch, kBatch);
    if (count == 0) break;
    for (unsigned i = 0; i < count; ++i) Dispatch(*batch[i]);
    io_uring_cq_advance(&core_.ring, count);
    total += count;
    core_.stats.completions_total += count;
  }
}

void UringReactor::Dispatch(const io_uring_cqe& cqe) {
  void* owner = reinterpret_cast<void*>(cqe.user_data & ~kUringTagMask);
  switch (static_cast<UringTag>(cqe.user_data & kUringTagMask)) {
    case UringTag::kIoOp: disk_.OnCompletion(static_cast<IoOp*>(owner), cqe.res); break;
    case UringTag::kWake: wake_read_armed_ = false; break;
    case UringTag::kIgnore: break;
    default: network_.OnCompletion(static_cast<UringTag>(cqe.user_data & kUringTagMask), owner, cqe.res, cqe.flags);
  }
}

}  // namespace pando
