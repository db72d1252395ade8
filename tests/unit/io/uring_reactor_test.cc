// Tests of what only the io_uring reactor has: refusals by the kernel, descriptors of real files,
// and groups of threads.
#include "src/io/uring_reactor.h"

#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <thread>

#include "src/io/file.h"
#include "src/io/reactor_group.h"
#include "src/io/socket_address.h"
#include "tests/support/child_process.h"
#include "tests/unit/io/reactor_harness.h"

namespace pando {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(UringRefusal, EachCauseHasItsRemedy) {
  EXPECT_THAT(ExplainUringRefusal(ENOSYS, -1).message(), AllOf(HasSubstr("ENOSYS"), HasSubstr("CONFIG_IO_URING")));
  EXPECT_THAT(ExplainUringRefusal(EPERM, 2).message(),
              AllOf(HasSubstr("kernel.io_uring_disabled = 2"), HasSubstr("sysctl -w kernel.io_uring_disabled=0")));
  EXPECT_THAT(ExplainUringRefusal(EPERM, 1).message(), HasSubstr("kernel.io_uring_group"));
  EXPECT_THAT(ExplainUringRefusal(EPERM, 0).message(), HasSubstr("seccomp"));
  EXPECT_THAT(ExplainUringRefusal(ENOMEM, 0).message(), HasSubstr("RLIMIT_MEMLOCK"));
  EXPECT_EQ(ExplainUringRefusal(EPERM, 0).code(), Code::kUnsupported);
  EXPECT_EQ(ExplainUringRefusal(EMFILE, 0).code(), Code::kIoError);
}

// Installs a real seccomp filter, like a container's. Must be called in a child process.
bool RefuseIoUring() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{static_cast<unsigned short>(std::size(code)), code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}
TEST(UringRefusal, SeccompIsNamed) {
  EXPECT_TRUE(InChildProcess([] {
    if (!RefuseIoUring()) return false;
    auto reactor = MakeUringReactor({});
    auto group = ReactorGroup::Start({.reactors = 3, .uring = {}, .pin_threads = false}, nullptr);
    return !reactor.ok() && reactor.code() == Code::kUnsupported &&
           (reactor.status().message().find("seccomp") != std::string::npos ||
            reactor.status().message().find("io_uring_disabled") != std::string::npos) &&
           !group.ok() && group.code() == Code::kUnsupported;
  }));
}

TEST(Uring, UsesTheFastestSetUpTheKernelHas) {
  auto made = MakeUringReactor({});
  ASSERT_TRUE(made.ok()) << made.status().ToString();
  EXPECT_NE(static_cast<UringReactor&>(**made).stats().setup_flags, 0u);
}

Task<Status> OpenDirect(Reactor& r, std::string path) {
  auto file = co_await File::Open(r, path, File::Mode::kRead, true);
  if (!file.ok()) co_return file.TakeStatus();
  co_return co_await file->Close();
}
TEST(Uring, AFileSystemWithoutDirectIoIsExplained) {
  UringHarness harness;
  Status status = harness.Run(OpenDirect(harness.reactor(), "/proc/self/status"));
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("/proc/self/status"), HasSubstr("O_DIRECT"), HasSubstr("ext4")));
}

Task<void> WriteAndReadBack(Reactor& r, char* memory, int buffer_index, bool* worked) {
  auto file = co_await File::Open(r, fmt::format("/tmp/pando_uring_{}", getpid()), File::Mode::kCreate, false);
  CHECK(file.ok()) << file.status().ToString();
  std::memset(memory, 7, 4096);
  Status wrote = co_await file->Write(memory, 4096, 0, buffer_index);
  Status read = co_await file->Read(memory + 4096, 4096, 0, buffer_index);
  Status removed = co_await RemoveFile(r, file->path());
  Status closed = co_await file->Close();
  *worked = wrote.ok() && read.ok() && removed.ok() && closed.ok() && memory[8191] == 7;
}
TEST(Uring, LockedMemoryRefusedMeansUnregistered) {
  EXPECT_TRUE(InChildProcess([] {
    // The limit applies only to unprivileged processes. Newer kernels count the rings as well, so
    // it must leave room for them.
    rlimit limit{8 << 20, 8 << 20};
    PCHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    PCHECK(geteuid() != 0 || setresuid(65534, 65534, 65534) == 0);
    auto made = MakeUringReactor({});
    CHECK(made.ok()) << made.status().ToString();
    AlignedBuffer memory(32 << 20);
    iovec region{memory.data(), memory.size()};
    auto& reactor = static_cast<UringReactor&>(**made);
    const int base = reactor.RegisterBuffers({&region, 1});
    bool worked = false;
    RunBlocking(reactor, WriteAndReadBack(reactor, memory.data(), base, &worked));
    return worked && reactor.stats().buffer_registrations_refused_total == 1;
  }));
}

// UD1: more open files than the registered table has slots. The other files work unregistered.
Task<void> OpenMany(Reactor& r, std::string dir) {
  std::vector<File> files(40);
  for (int i = 0; i < 40; ++i) {
    auto file = co_await File::Open(r, fmt::format("{}/{}", dir, i), File::Mode::kCreate, false);
    EXPECT_TRUE(file.ok());
    files[i] = *std::move(file);
  }
  for (int i = 0; i < 40; ++i) {
    Status status = co_await files[i].Write(&i, sizeof i, 0);
    EXPECT_TRUE(status.ok());
  }
  for (int i = 39; i >= 0; --i) {
    int back = -1;
    Status status = co_await files[i].Read(&back, sizeof back, 0);
    EXPECT_TRUE(status.ok());
    EXPECT_EQ(back, i);
    status = co_await files[i].Close();
    EXPECT_TRUE(status.ok());
  }
}
TEST(Uring, MoreFilesThanRegisteredSlots) {
  UringHarness scratch;
  UringOptions options;
  options.registered_files = 8;
  auto made = MakeUringReactor(options);
  ASSERT_TRUE(made.ok());
  RunBlocking(**made, OpenMany(**made, scratch.directory()));
}

Task<void> EchoOnce(Reactor& r, uint16_t port) {
  struct Client final : ConnectionHandler {
    size_t received = 0;
    bool closed = false;
    void OnData(std::span<const char> bytes) override { received += bytes.size(); }
    void OnSent() override {}
    void OnClosed(const Status&) override { closed = true; }
  } client;
  auto connected = co_await r.Connect("127.0.0.1", port, kSecond);
  EXPECT_TRUE(connected.ok());
  (*connected)->SetHandler(&client);
  std::string bytes(100'000, 'x');
  (*connected)->Send(&bytes);
  while (client.received < 100'000 && !client.closed) co_await Sleep(r, kMillisecond);
  (*connected)->Close(true);
  while (!client.closed) co_await Sleep(r, kMillisecond);
}
struct EchoServer final : AcceptHandler {
  struct Peer final : ConnectionHandler {
    Connection* connection = nullptr;
    bool closed = false;
    void OnData(std::span<const char> bytes) override {
      std::string copy(bytes.data(), bytes.size());
      connection->Send(&copy);
    }
    void OnSent() override {}
    void OnClosed(const Status&) override { closed = true; }
  };
  std::vector<std::unique_ptr<Peer>> peers;
  void OnAccept(Connection* connection) override {
    peers.push_back(std::make_unique<Peer>());
    peers.back()->connection = connection;
    connection->SetHandler(peers.back().get());
  }
};
// S3: two tiny receive buffers are shared by many connections. ENOBUFS occurs all the time, and
// still nothing is lost.
Task<void> Starved(Reactor& r) {
  EchoServer server;
  auto port = r.Listen({}, &server);
  TaskGroup group;
  for (int i = 0; i < 20; ++i) group.Spawn(EchoOnce(r, *port));
  co_await group.Drain();
  for (auto& peer : server.peers) {
    while (!peer->closed) co_await Sleep(r, kMillisecond);
  }
  r.StopListening(&server);
}
TEST(Uring, ReceiveBufferShortagesLoseNothing) {
  UringOptions options;
  options.network.receive_buffers = 2;
  options.network.receive_buffer_bytes = 512;
  auto made = MakeUringReactor(options);
  ASSERT_TRUE(made.ok());
  RunBlocking(**made, Starved(**made));
  EXPECT_GT(static_cast<UringReactor&>(**made).stats().receive_buffer_shortages_total, 0u);
}

// A reactor may be destroyed while connections are open and data is in flight.
Task<void> LeaveOpen(Reactor& r, EchoServer* server, EchoServer::Peer* client) {
  auto port = r.Listen({}, server);
  auto connected = co_await r.Connect("127.0.0.1", *port, kSecond);
  EXPECT_TRUE(connected.ok());
  client->connection = *connected;
  (*connected)->SetHandler(client);
  std::string bytes(1 << 20, 'x');
  client->connection->Send(&bytes);
  co_await Sleep(r, kMillisecond);
}
TEST(Uring, DestroyedWithOpenConnections) {
  EchoServer server;
  EchoServer::Peer client;
  auto made = MakeUringReactor({});
  ASSERT_TRUE(made.ok());
  RunBlocking(**made, LeaveOpen(**made, &server, &client));
  made->reset();
  EXPECT_FALSE(client.closed) << "handlers are not called by a destructor";
}

// A backlog from which nothing is accepted is full after a few connects. Further connects then get
// no answer.
TEST(Uring, ConnectTimesOut) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_GE(fd, 0);
  Result<SocketAddress> address = SocketAddress::Parse("127.0.0.1", 0);
  ASSERT_TRUE(address.ok());
  ASSERT_EQ(bind(fd, address->get(), address->length), 0);
  ASSERT_EQ(listen(fd, 0), 0);
  const uint16_t port = SocketAddress::OfSelf(fd).port();
  UringHarness harness;
  Code last = Code::kOk;
  for (int i = 0; i < 5 && last == Code::kOk; ++i) {
    auto connected = harness.Run(harness.reactor().Connect("127.0.0.1", port, 50 * kMillisecond));
    last = connected.code();
    if (!connected.ok()) {
      EXPECT_THAT(connected.status().message(), HasSubstr("50 ms"));
    }
  }
  EXPECT_EQ(last, Code::kDeadline);
  close(fd);
}

TEST(SocketAddress, ParsesNumbersOnly) {
  EXPECT_EQ(SocketAddress::Parse("10.1.2.3", 80)->ToString(), "10.1.2.3:80");
  EXPECT_EQ(SocketAddress::Parse("::1", 80)->ToString(), "[::1]:80");
  EXPECT_EQ(SocketAddress::Parse("localhost", 80)->ToString(), "127.0.0.1:80");
  for (const char* bad : {"", "example.org", "1.2.3", "1.2.3.4.5", "[::1]", "127.0.0.1:80"}) {
    EXPECT_EQ(SocketAddress::Parse(bad, 80).code(), Code::kInvalidArgument) << bad;
  }
}

// -- groups

TEST(ReactorGroup, EndsWhenAllMainsHaveReturned) {
  std::atomic<int> ran{0};
  auto group =
      ReactorGroup::Start({.reactors = 3, .uring = {}, .pin_threads = false}, [&ran](Reactor& r) -> Task<void> {
        co_await Sleep(r, (1 + r.index()) * kMillisecond);
        ++ran;
      });
  ASSERT_TRUE(group.ok()) << group.status().ToString();
  (*group)->Join();
  EXPECT_EQ(ran, 3);
  (*group)->Stop();  // too late: everything has already stopped
}

TEST(ReactorGroup, RunOnBlocksUntilDone) {
  auto group = ReactorGroup::Start({.reactors = 2, .uring = {}, .pin_threads = false}, nullptr);
  ASSERT_TRUE(group.ok());
  for (int i = 0; i < 200; ++i) {
    const int index = (*group)->RunOn(i % 2, [](Reactor& r) -> Task<int> {
      co_await Yield(r);
      co_return r.index();
    });
    ASSERT_EQ(index, i % 2);
  }
  std::vector<std::thread> threads;
  std::atomic<int> sum{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        sum += (*group)->RunOn(1, [](Reactor&) -> Task<int> { co_return 1; });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum, 400);
}

TEST(ReactorGroup, PinningNeedsCpus) {
  const int cpus = static_cast<int>(std::thread::hardware_concurrency());
  UringOptions small;
  small.submission_entries = 8;
  small.completion_entries = 16;
  small.registered_files = 0;
  auto group = ReactorGroup::Start({.reactors = cpus + 1, .uring = small, .pin_threads = true}, nullptr);
  EXPECT_EQ(group.code(), Code::kInvalidArgument);
  EXPECT_THAT(group.status().message(), HasSubstr(fmt::format("cannot pin {} reactors", cpus + 1)));
}

}  // namespace
}  // namespace pando
