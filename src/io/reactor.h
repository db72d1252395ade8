// Reactor: the one interface through which production code touches time, disk, network and randomness.
//
// Two implementations: UringReactor (src/io/uring_reactor.h) and the simulated kernel (tests/support/sim_kernel.h).
// tests/unit/io/reactor_conformance_test.cc runs the same suite against both.
//
// Threads: a reactor belongs to one thread, and every call here is made on it, except PostRemote's far end and Stop(),
// which say otherwise. Nothing here blocks but Run().
//
// Invariants
//   R1  Completions, timers, socket callbacks and scheduled coroutines are delivered only from the loop, never from
//       inside the call that submitted them: no caller is re-entered.
//   R2  A buffer given to Submit belongs to the kernel until the operation completes (the simulated kernel writes to
//       it until then, so that early reuse is seen).
//   R3  A turn = reap completions, run what became ready, fire due timers, call the turn hooks, submit everything in
//       one system call. NowNs() is read once a turn.
#pragma once

#include <sys/uio.h>

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/io/task.h"

namespace pando {

using Nanos = int64_t;
inline constexpr Nanos kMicrosecond = 1'000;
inline constexpr Nanos kMillisecond = 1'000'000;
inline constexpr Nanos kSecond = 1'000'000'000;

using FileId = int32_t;  // the reactor's own handle; an index of a registered file where the kernel supports it
inline constexpr FileId kNoFile = -1;
inline constexpr size_t kMaxBufferRegions = 1u << 14;  // the kernel's limit
inline constexpr int kNoBuffer = -1;

// Which file it is, whatever its name.
struct FileIdentity {
  uint64_t device = 0, inode = 0;
  bool operator==(const FileIdentity&) const = default;
};

// One asynchronous operation. It lives in its owner (usually an awaiter inside a coroutine frame) until it completes.
struct IoOp {
  enum class Kind : uint8_t {
    kOpen,
    kClose,
    kRead,
    kWrite,
    kReadv,
    kWritev,
    kSync,
    kAllocate,
    kTruncate,
    kRename,
    kUnlink,
    kMakeDirectory
  };
  Kind kind = Kind::kSync;
  bool data_sync = false;  // kWrite/kWritev: durable on completion (RWF_DSYNC); kSync: fdatasync instead of fsync
  FileId file = kNoFile;
  int flags = 0;                 // kOpen: of open(2); kAllocate: of fallocate(2)
  int buffer_index = kNoBuffer;  // kRead/kWrite: registered buffer that holds `data`
  void* data = nullptr;          // kRead/kWrite: memory; kReadv/kWritev: iovec array
  uint32_t length = 0;           // bytes, or number of iovecs
  uint64_t offset = 0;           // file offset; kTruncate: new size; kAllocate: start
  uint64_t allocate_bytes = 0;
  const char* path = nullptr;      // kOpen, kRename (from), kUnlink, kMakeDirectory
  const char* new_path = nullptr;  // kRename (to)
  FileId directory = kNoFile;      // an open directory that these paths are relative to

  int32_t result = 0;  // >= 0: bytes moved, or the FileId for kOpen; < 0: -errno
  void (*on_complete)(IoOp*) = nullptr;
  std::coroutine_handle<> waiter;
};

// co_await IoAwaiter(reactor, op) -> int32_t result.
class ConnectionBudget;  // src/io/connection_budget.h
class Reactor;
struct IoAwaiter {
  Reactor* reactor;
  IoOp op;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h);
  int32_t await_resume() const noexcept { return op.result; }
};

// A one-shot timer. Intrusive: its owner keeps it alive, or cancels it.
struct Timer {
  Nanos deadline_ns = 0;
  void (*on_fire)(Timer*) = nullptr;
  bool armed = false;
  uint64_t sequence = 0;  // set by the reactor; orders equal deadlines
  size_t heap_index = 0;  // set by the reactor: its place in the heap while armed
};

// Called once at the end of each turn in which it was armed (ArmTurnHook), before the turn's one submit.
struct TurnHook {
  virtual void OnTurnEnd() = 0;
  bool armed = false;

 protected:
  ~TurnHook() = default;
};

// One TCP connection. Owned by the reactor's side until Close; the handler is told of everything.
class ConnectionHandler {
 public:
  // `bytes` are valid only during the call (they live in a provided buffer that is returned to the kernel after it).
  virtual void OnData(std::span<const char> bytes) = 0;
  // All bytes handed to Send so far have been taken by the kernel.
  virtual void OnSent() = 0;
  // The peer closed or failed, or Close() was called. The last call; the Connection is gone after it returns.
  virtual void OnClosed(const Status& reason) = 0;

 protected:
  ~ConnectionHandler() = default;
};

class Connection {
 public:
  virtual void SetHandler(ConnectionHandler* handler) = 0;
  // Queues bytes. At most one send is in progress; what is queued meanwhile goes out with the next. Swaps `bytes`
  // with an empty, recycled string.
  virtual void Send(std::string* bytes) = 0;
  virtual size_t unsent_bytes() const = 0;
  // Of all bytes ever handed to Send, those that the peer has acknowledged: how fast it reads shows here even while one
  // large send is in progress. Costs a system call, so it is for watching, not for every request.
  virtual uint64_t acknowledged_bytes() const = 0;
  // Receiving stops soon (bytes already on their way are still delivered), for flow control.
  virtual void PauseReceive() = 0;
  virtual void ResumeReceive() = 0;
  // Sends what is queued, then closes; OnClosed follows from the loop. `now`: drops what is queued.
  virtual void Close(bool now) = 0;
  virtual const std::string& peer() const = 0;  // "127.0.0.1:51234"

 protected:
  ~Connection() = default;
};

class AcceptHandler {
 public:
  // SetHandler must be called before this returns.
  virtual void OnAccept(Connection* connection) = 0;

 protected:
  ~AcceptHandler() = default;
};

struct ListenOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;       // 0: any free port
  bool reuse_port = true;  // several reactors listen on one port; the kernel spreads connections
  int backlog = 4096;
  // Connections beyond it wait in the backlog. Null: no limit. It outlives the connections, and listeners may share it.
  ConnectionBudget* budget = nullptr;
};

// Work handed to another reactor and brought back. Owned by the origin; it carries its own bytes.
//   origin: reactor.CallRemote(target, &call)  ->  target thread: call.Start()  -> ... -> target.Return(&call)
//   -> origin thread: call.Finish()
// Each ordered pair of reactors has a bounded request ring and a reply ring of the same size, and a request is sent
// only with a credit that reserves its place in the reply ring, so two full queues cannot deadlock. Without a credit
// the call waits in the origin's queue (bounded by the caller's own admission), in order. A call must not wait, while
// it runs, for a call back to where it came from: that call might wait for credits that calls like it hold.
struct RemoteCall {
  virtual void Start() = 0;   // on the target reactor's thread
  virtual void Finish() = 0;  // on the origin's thread; may delete this
  int origin = -1, target = -1;
  Reactor* target_reactor = nullptr;  // set by the target just before Start()
  RemoteCall* next = nullptr;

 protected:
  ~RemoteCall() = default;
};

class Reactor {
 public:
  virtual ~Reactor() = default;

  // The reactor of this thread (in a simulation: the node now running).
  virtual int index() const = 0;

  // -- time and randomness
  virtual Nanos NowNs() const = 0;     // monotonic (CLOCK_BOOTTIME), read once a turn
  virtual int64_t WallMs() const = 0;  // Unix milliseconds
  virtual uint64_t Random() = 0;       // 64 uniform bits; seeded in simulations
  virtual void ArmTimer(Timer* timer, Nanos deadline_ns) = 0;
  virtual void CancelTimer(Timer* timer) = 0;  // no-op when not armed

  // -- scheduling
  virtual void Schedule(std::coroutine_handle<> h) = 0;  // resumed from the loop, this turn or the next; FIFO
  virtual void ArmTurnHook(TurnHook* hook) = 0;

  // -- disk
  virtual void Submit(IoOp* op) = 0;
  // Makes `regions` usable as IoOp::buffer_index base.. ; returns the index of the first, or kNoBuffer. A region is
  // locked in memory when it is first used; once that is refused (logged and counted), all others run unregistered.
  // Each region at most 1 GiB, no more than kMaxBufferRegions of them. One call.
  virtual int RegisterBuffers(std::span<const iovec> regions) = 0;
  // Directory entries by name, sorted; blocking, for start-up and recovery only.
  virtual Result<std::vector<std::string>> ListDirectory(const std::string& path) = 0;
  // The same of an open directory; `path` is its name in errors.
  virtual Result<std::vector<std::string>> ListDirectory(FileId directory, const std::string& path) = 0;
  // Which file `name` in an open directory is now; with an empty name, which file `file` is. `path` is its name in
  // errors. Blocking, but from the kernel's cache.
  virtual Result<FileIdentity> Identify(FileId file, const std::string& name, const std::string& path) = 0;
  virtual Result<uint64_t> FileSize(FileId file) = 0;
  // An exclusive OFD lock held until the file is closed; kLocked when another process has it.
  virtual Status LockFile(FileId file, const std::string& path) = 0;

  // -- network
  virtual Result<uint16_t> Listen(const ListenOptions& options, AcceptHandler* handler) = 0;  // -> port
  // Ends every listener of `handler`, which hears of no further connection. Other handlers' listeners stay.
  virtual void StopListening(AcceptHandler* handler) = 0;
  // Connects; the connection is handed over before any data is delivered.
  virtual Task<Result<Connection*>> Connect(std::string host, uint16_t port, Nanos timeout_ns) = 0;

  // -- other reactors
  virtual void CallRemote(int target, RemoteCall* call) = 0;
  virtual void Return(RemoteCall* call) = 0;  // on the target

  // -- running
  virtual void Run() = 0;   // until Stop()
  virtual void Stop() = 0;  // any thread, and safe in a signal handler
};

inline void IoAwaiter::await_suspend(std::coroutine_handle<> h) {
  op.waiter = h;
  reactor->Submit(&op);
}

// co_await Sleep(reactor, 5 * kMillisecond)
inline auto Sleep(Reactor& reactor, Nanos duration_ns) {
  struct Awaiter : Timer {
    Reactor* reactor;
    Nanos duration;
    std::coroutine_handle<> waiter;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h) {
      waiter = h;
      on_fire = [](Timer* t) { static_cast<Awaiter*>(t)->waiter.resume(); };
      reactor->ArmTimer(this, reactor->NowNs() + duration);
    }
    void await_resume() noexcept {}
  };
  Awaiter a{};
  a.reactor = &reactor;
  a.duration = duration_ns;
  return a;
}

// co_await Yield(reactor): lets everything else that is ready run first.
inline auto Yield(Reactor& reactor) {
  struct Awaiter {
    Reactor* reactor;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h) { reactor->Schedule(h); }
    void await_resume() noexcept {}
  };
  return Awaiter{&reactor};
}

}  // namespace pando
