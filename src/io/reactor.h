// Reactor is the only interface through which production code uses time, disk, network and
// randomness.
//
// There are two implementations: UringReactor (src/io/uring_reactor.h) and the simulated kernel
// (tests/support/sim_kernel.h). tests/unit/io/reactor_conformance_test.cc runs the same suite
// against both.
//
// Threads: a reactor belongs to one thread, and every method must be called on that thread, except
// Stop(). RemoteCall and OffloadCall say which thread runs each of their methods. Nothing blocks except Run() and
// the few methods that are marked as blocking.
//
// Invariants
//   R1  Completions, timers, socket callbacks and scheduled coroutines are delivered only from the
//       loop, never from inside the call that submitted them. Callers are therefore never
//       re-entered.
//   R2  A buffer passed to Submit belongs to the kernel until the operation completes. (The
//       simulated kernel writes to the buffer until then, so that tests detect early reuse.)
//   R3  A turn consists of these steps: reap completions, run what has become ready, fire due
//       timers, call the turn hooks, and submit what the turn has prepared. (UringReactor submits
//       earlier when many operations are waiting.) NowNs() is read once per turn.
#pragma once

#include <sys/uio.h>

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/result.h"
#include "src/io/task.h"

namespace pando {

using Nanos = int64_t;
inline constexpr Nanos kMicrosecond = 1'000;
inline constexpr Nanos kMillisecond = 1'000'000;
inline constexpr Nanos kSecond = 1'000'000'000;

using FileId = int32_t;  // the reactor's own handle for an open file
inline constexpr FileId kNoFile = -1;
inline constexpr size_t kMaxBufferRegions = 1u << 14;  // the kernel's limit
inline constexpr int kNoBuffer = -1;

// Identifies a file independently of its name.
struct FileIdentity {
  uint64_t device = 0, inode = 0;
  bool operator==(const FileIdentity&) const = default;
};

// One asynchronous operation. Its owner, usually an awaiter inside a coroutine frame, keeps it
// alive until it completes.
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
    kLink,
    kUnlink,
    kMakeDirectory
  };
  Kind kind = Kind::kSync;
  bool data_sync = false;  // kWrite/kWritev: RWF_DSYNC, durable on completion; kSync: fdatasync
  FileId file = kNoFile;
  int flags = 0;                 // kOpen: flags of open(2); kAllocate: mode of fallocate(2)
  int buffer_index = kNoBuffer;  // kRead/kWrite: the registered buffer that holds `data`
  void* data = nullptr;          // kRead/kWrite: the memory; kReadv/kWritev: an array of iovecs
  uint32_t length = 0;           // in bytes; kReadv/kWritev: number of iovecs
  uint64_t offset = 0;           // file offset; kTruncate: new size; kAllocate: start
  uint64_t allocate_bytes = 0;
  const char* path = nullptr;      // kOpen, kRename and kLink (from), kUnlink, kMakeDirectory
  const char* new_path = nullptr;  // kRename, kLink (to)
  FileId directory = kNoFile;      // the open directory that the paths are relative to, if any

  int32_t result = 0;  // >= 0: bytes transferred, or the FileId for kOpen; < 0: -errno
  void (*on_complete)(IoOp*) = nullptr;
  std::coroutine_handle<> waiter;
};

class ConnectionBudgets;  // src/io/connection_budget.h
struct OffloadCall;       // src/io/offload.h
struct OffloadMetrics;    // src/io/offload.h
class Reactor;
// Submits an operation and waits for it: int32_t result = co_await IoAwaiter{reactor, op}.
struct IoAwaiter {
  Reactor* reactor;
  IoOp op;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h);
  int32_t await_resume() const noexcept { return op.result; }
};

// A one-shot timer. It is intrusive: its owner must keep it alive, or cancel it, while it is armed.
struct Timer {
  Nanos deadline_ns = 0;
  void (*on_fire)(Timer*) = nullptr;
  bool armed = false;
  uint64_t sequence = 0;  // set by the reactor; orders timers with equal deadlines
  size_t heap_index = 0;  // set by the reactor; its place in the heap while it is armed
};

// Called at the end of a turn in which it was armed with ArmTurnHook, before the turn's operations
// are submitted.
struct TurnHook {
  virtual void OnTurnEnd() = 0;
  bool armed = false;

 protected:
  ~TurnHook() = default;
};

// Whom a listener serves. Each kind has its own budget of connections (ConnectionBudgets).
enum class ListenerKind : uint8_t { kClient, kPeer, kHttp };

// Who is at the other end of a connection.
struct Identity {
  // The kind of the listener that accepted the connection. Empty: this process opened it.
  std::optional<ListenerKind> listener;
  std::string address;  // "127.0.0.1:51234"
  // The name that the other end has proved to be its own. Empty: it has proved none.
  std::string principal;
};

// Receives the events of one TCP connection. The reactor owns the Connection until the connection
// is closed.
class ConnectionHandler {
 public:
  // `bytes` are valid only during the call: they lie in a provided buffer that then goes back to
  // the kernel.
  virtual void OnData(std::span<const char> bytes) = 0;
  // The kernel has taken all bytes passed to Send so far.
  virtual void OnSent() = 0;
  // The peer closed the connection, the connection failed, or Close() was called. This is the last
  // call; the Connection no longer exists after it returns.
  virtual void OnClosed(const Status& reason) = 0;

 protected:
  ~ConnectionHandler() = default;
};

class Connection {
 public:
  virtual void SetHandler(ConnectionHandler* handler) = 0;
  // Queues bytes. At most one send is in progress; bytes queued meanwhile leave with the next send.
  // Swaps `bytes` with an empty, recycled string.
  virtual void Send(std::string* bytes) = 0;
  virtual size_t unsent_bytes() const = 0;
  // Returns how many of the bytes passed to Send the peer has acknowledged. This shows how fast the
  // peer reads, even while one large send is in progress. It costs a system call, so it is for
  // occasional checks and not for every request.
  virtual uint64_t acknowledged_bytes() const = 0;
  // Flow control: stops receiving soon. Bytes that are already on their way are still delivered. If the peer of an
  // accepted connection goes meanwhile, the connection ends, and what was not received is lost.
  virtual void PauseReceive() = 0;
  virtual void ResumeReceive() = 0;
  // Sends the queued bytes, then closes; the loop calls OnClosed later. With `now`, drops the
  // queued bytes instead.
  virtual void Close(bool now) = 0;

  const Identity& identity() const { return identity_; }
  // For whoever has authenticated the other end: a byte filter, or the handler of a request.
  void SetPrincipal(std::string principal) { identity_.principal = std::move(principal); }

 protected:
  Connection() = default;
  explicit Connection(Identity identity) : identity_(std::move(identity)) {}
  ~Connection() = default;
  Identity identity_;
};

class AcceptHandler {
 public:
  // The handler must call connection->SetHandler before this returns.
  virtual void OnAccept(Connection* connection) = 0;

 protected:
  ~AcceptHandler() = default;
};

struct ListenOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;       // 0: any free port
  bool reuse_port = true;  // several reactors may share a port; the kernel spreads connections
  int backlog = 4096;
  ListenerKind kind = ListenerKind::kClient;
  // Connections beyond the budget of this kind wait in the backlog. Null means no limit. The
  // budgets must outlive the connections; all listeners of a process share them.
  ConnectionBudgets* budgets = nullptr;
};

// Work that is sent to another reactor and comes back. The origin owns it, and it carries its own
// data.
//
//   origin: reactor.CallRemote(target, &call)
//   target thread: call.Start() ... target.Return(&call)
//   origin thread: call.Finish()
//
// Each ordered pair of reactors has a bounded request ring and a reply ring of the same size. A
// message that finds its ring full waits at its sender, in order. The caller's own admission
// control bounds how many do.
struct RemoteCall {
  virtual void Start() = 0;   // runs on the target reactor's thread
  virtual void Finish() = 0;  // runs on the origin's thread; may delete this object
  int origin = -1, target = -1;
  Reactor* target_reactor = nullptr;  // set by the target just before it calls Start()
  RemoteCall* next = nullptr;

 protected:
  ~RemoteCall() = default;
};

class Reactor {
 public:
  virtual ~Reactor() = default;

  // The index of this reactor. (In a simulation: of the node that is running now.)
  virtual int index() const = 0;

  // -- time and randomness
  virtual Nanos NowNs() const = 0;  // monotonic (CLOCK_BOOTTIME); read once per turn
  // The same clock, read now. For leases: what was true when the turn began may not be true any more.
  virtual Nanos FreshNowNs() const = 0;
  virtual int64_t WallMs() const = 0;  // Unix milliseconds
  // 64 random bits that whoever has seen earlier ones can predict: for jitter and sampling only.
  virtual uint64_t Random() = 0;
  // Fills `bytes` with randomness that nobody can predict: for UUIDs, tokens, salts and keys. Costs
  // a system call. Simulations reproduce both kinds of randomness.
  virtual void FillRandom(std::span<std::byte> bytes) = 0;
  virtual void ArmTimer(Timer* timer, Nanos deadline_ns) = 0;
  virtual void CancelTimer(Timer* timer) = 0;  // does nothing if it is not armed

  // -- scheduling
  virtual void Schedule(std::coroutine_handle<> h) = 0;  // FIFO; resumed in this turn or the next
  virtual void ArmTurnHook(TurnHook* hook) = 0;

  // -- disk
  virtual void Submit(IoOp* op) = 0;
  // Makes `regions` usable through IoOp::buffer_index. Returns the index of the first region (the
  // others follow it), or kNoBuffer if the kernel refuses. A region is locked in memory when it is
  // first used. Once the kernel refuses to lock a region, which is logged and counted, that region
  // and all others not yet locked are used unregistered. Each region may have at most 1 GiB, and
  // there may be at most kMaxBufferRegions of them. Replaces the unused regions of an earlier call.
  virtual int RegisterBuffers(std::span<const iovec> regions) = 0;
  // Returns the names of the directory's entries, sorted. Blocks; for startup and recovery only.
  virtual Result<std::vector<std::string>> ListDirectory(const std::string& path) = 0;
  // The same for an open directory. Error messages call it `path`.
  virtual Result<std::vector<std::string>> ListDirectory(FileId directory, const std::string& path) = 0;
  // Returns which file `name` in the open directory `file` is now; with an empty name, which file
  // `file` itself is; with kNoFile, which file the path `name` leads to. Error messages call it `path`. Blocks, but the
  // kernel answers from its cache.
  virtual Result<FileIdentity> Identify(FileId file, const std::string& name, const std::string& path) = 0;
  virtual Result<uint64_t> FileSize(FileId file) = 0;
  // Takes an OFD lock that is held until the file is closed. The lock is exclusive if the file is
  // open for writing, and shared if it is open for reading only. Returns kLocked when another
  // process holds a conflicting lock.
  virtual Status LockFile(FileId file, const std::string& path) = 0;

  // -- network
  // Starts a listener for `handler` and returns the port that it listens on.
  virtual Result<uint16_t> Listen(const ListenOptions& options, AcceptHandler* handler) = 0;
  // Ends every listener of `handler`, which will not get any more connections. Listeners of other
  // handlers stay.
  virtual void StopListening(AcceptHandler* handler) = 0;
  // Connects to a peer. The caller gets the connection before any data is delivered to it.
  virtual Task<Result<Connection*>> Connect(std::string host, uint16_t port, Nanos timeout_ns) = 0;

  // -- other reactors
  virtual void CallRemote(int target, RemoteCall* call) = 0;
  virtual void Return(RemoteCall* call) = 0;  // called on the target

  // -- work that takes long: what Offload (src/io/offload.h) stands on
  virtual void StartOffload(OffloadCall* call) = 0;
  virtual const OffloadMetrics& offload_metrics() = 0;

  // -- running
  virtual void Run() = 0;   // until Stop()
  virtual void Stop() = 0;  // may be called from any thread and from a signal handler
};

inline void IoAwaiter::await_suspend(std::coroutine_handle<> h) {
  op.waiter = h;
  reactor->Submit(&op);
}

// Returns a random number that nobody can predict, and never 0: for IDs and tokens.
inline uint64_t RandomId(Reactor& reactor) {
  uint64_t id = 0;
  do reactor.FillRandom(std::as_writable_bytes(std::span(&id, 1)));
  while (id == 0);
  return id;
}

// Suspends for `duration_ns`: co_await Sleep(reactor, 5 * kMillisecond).
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

// co_await Yield(reactor) lets everything else that is ready run first.
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
