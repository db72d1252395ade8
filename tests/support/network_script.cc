#include "tests/support/network_script.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "src/io/call_on.h"
#include "src/io/socket_address.h"
#include "src/io/uring_reactor.h"

namespace pando {
namespace {

constexpr size_t kMaxClients = 8;
constexpr size_t kMaxUnsentBytes = 6u << 20;
constexpr Nanos kSettleLimitNs = 20 * kSecond;

// The action of a handler for a received byte or a step.
enum class Command : uint8_t {
  kNothing,
  kReplySmall,
  kReplyPage,
  kReplyLarge,
  kReplyHuge,
  kPause,
  kResume,
  kClose,
  kCloseNow,
  kReplyAndClose,
  kReplyOnSent,
  kCloseOnSent,
  kCommands
};
constexpr auto kCommands = static_cast<uint8_t>(Command::kCommands);
// Bytes of replies are not commands. Otherwise the two ends of a connection of the reactor to
// itself would answer each other's replies forever.
constexpr uint8_t kFirstPatternByte = 100;

// The bytes that handlers send from `offset` of the connection's stream: a pattern that repeats
// after kPatternBytes.
constexpr size_t kPatternBytes = 51'200;
std::string_view Pattern(uint64_t offset, size_t bytes) {
  static const std::string pattern = [] {
    std::string s(2 * kPatternBytes, '\0');
    for (size_t i = 0; i < s.size(); ++i) s[i] = static_cast<char>(kFirstPatternByte + (i * 31 + i / 512 * 7) % 100);
    return s;
  }();
  return std::string_view(pattern).substr(offset % kPatternBytes, std::min(bytes, kPatternBytes));
}

// One end of a connection that the reactor holds.
class End final : public ConnectionHandler {
 public:
  void Attach(Connection* connection) {
    connection_ = connection;
    connection->SetHandler(this);
  }
  bool closed() const { return connection_ == nullptr; }
  Connection* connection() { return connection_; }

  void Obey(Command command) {
    if (closed()) return;
    switch (command) {
      case Command::kReplySmall: return Reply(13);
      case Command::kReplyPage: return Reply(5'000);
      case Command::kReplyLarge: return Reply(300'000);
      case Command::kReplyHuge: return Reply(3u << 20);
      case Command::kPause: return connection_->PauseReceive();
      case Command::kResume: return connection_->ResumeReceive();
      case Command::kClose: return connection_->Close(false);
      case Command::kCloseNow: return connection_->Close(true);
      case Command::kReplyAndClose: return Reply(700'000), connection_->Close(false);
      case Command::kReplyOnSent: reply_on_sent_ = true; return;
      case Command::kCloseOnSent: close_on_sent_ = true; return;
      default: return;
    }
  }

 private:
  void OnData(std::span<const char> bytes) override {
    CHECK(!closed()) << "data after OnClosed";
    for (char byte : bytes) {
      auto command = static_cast<uint8_t>(byte);
      if (command < kCommands) Obey(static_cast<Command>(command));
    }
  }
  void OnSent() override {
    CHECK(!closed()) << "OnSent after OnClosed";
    CHECK_EQ(connection_->unsent_bytes(), 0u);
    if (std::exchange(reply_on_sent_, false)) Reply(1'000);
    if (std::exchange(close_on_sent_, false)) connection_->Close(false);
  }
  void OnClosed(const Status& reason) override {
    CHECK(!closed()) << "OnClosed twice";
    CHECK(!reason.ok());
    connection_ = nullptr;
  }
  void Reply(size_t bytes) {
    if (connection_->unsent_bytes() > kMaxUnsentBytes) return;
    std::string reply;
    for (std::string_view part; reply.size() < bytes; replied_ += part.size()) {
      part = Pattern(replied_, bytes - reply.size());
      reply.append(part);
    }
    connection_->Send(&reply);
    CHECK(reply.empty());
  }

  Connection* connection_ = nullptr;
  uint64_t replied_ = 0;
  bool reply_on_sent_ = false, close_on_sent_ = false;
};

// A client with a plain, non-blocking socket.
class Client {
 public:
  Client(uint16_t port, bool small_window) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    PCHECK(fd_ >= 0);
    int bytes = 4096;
    if (small_window) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    Result<SocketAddress> address = SocketAddress::Parse("127.0.0.1", port);
    // The kernel accepts for the listener, so this does not wait for the reactor.
    PCHECK(connect(fd_, address->get(), address->length) == 0);
    fcntl(fd_, F_SETFL, O_NONBLOCK);
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() { close(fd_); }

  void Send(const std::string& bytes) {
    ssize_t ignored = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    (void)ignored;
  }
  void Read(size_t bytes) {
    std::string buffer(bytes, '\0');
    ssize_t n = recv(fd_, buffer.data(), buffer.size(), 0);
    std::string_view rest(buffer.data(), static_cast<size_t>(std::max<ssize_t>(n, 0)));
    while (!rest.empty()) {
      const std::string_view expected = Pattern(received_, rest.size());
      CHECK(rest.starts_with(expected)) << "wrong bytes at or after offset " << received_ << " of the replies";
      received_ += expected.size();
      rest.remove_prefix(expected.size());
    }
  }
  void Shutdown(int how) { shutdown(fd_, how); }
  // Closing it will then reset the connection.
  void ArmReset() {
    linger at_once{1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }

 private:
  const int fd_;
  uint64_t received_ = 0;
};

class NetworkScript final : public AcceptHandler {
 public:
  explicit NetworkScript(UringReactor& reactor) : reactor_(reactor) {}

  Task<void> Run(std::span<const uint8_t> script) {
    Result<uint16_t> port = reactor_.Listen({}, this);
    CHECK(port.ok()) << port.status().ToString();
    port_ = *port;
    const size_t steps = std::min(script.size() / 2, kMaxNetworkScriptSteps);
    for (size_t i = 0; i < steps; ++i) co_await Step(script[2 * i], script[2 * i + 1]);
    clients_.clear();
    co_await connects_.Drain();
    // The two ends of the reactor's own connections would otherwise keep each other open.
    for (auto& end : ends_) {
      if (end->connection() != nullptr) end->connection()->Close(false);
    }
    reactor_.StopListening(this);
    const Nanos give_up_ns = reactor_.NowNs() + kSettleLimitNs;
    while (reactor_.stats().connections > 0) {
      CHECK_LT(reactor_.NowNs(), give_up_ns) << "S4: " << reactor_.stats().connections << " connections are left";
      co_await Sleep(reactor_, 200 * kMicrosecond);
    }
    for (auto& end : ends_) CHECK(end->closed()) << "a handler was not told that its connection is gone";
  }

 private:
  void OnAccept(Connection* connection) override {
    ends_.push_back(std::make_unique<End>());
    ends_.back()->Attach(connection);
  }

  Task<void> Step(uint8_t what, uint8_t how) {
    Client* client = clients_.empty() ? nullptr : clients_[(how / kCommands) % clients_.size()].get();
    const uint8_t command = how % kCommands;
    switch (what % 14) {
      case 0:
      case 1:
        if (clients_.size() < kMaxClients) clients_.push_back(std::make_unique<Client>(port_, how % 2 == 0));
        break;
      case 2:
      case 3:
        if (client) client->Send(std::string(1, static_cast<char>(command)));
        break;
      case 4:
        if (client) client->Send(std::string(40'000, '\0'));
        break;
      case 5:
        if (client) client->Read(size_t{1} << (how % 20));
        break;
      case 6:
        if (client) client->Shutdown(SHUT_WR);
        break;
      case 7:
        if (client) client->Shutdown(how % 2 == 0 ? SHUT_RD : SHUT_RDWR);
        break;
      case 8:
        if (client && how % 2 == 0) client->ArmReset();
        if (client) clients_.erase(clients_.begin() + (how / kCommands) % static_cast<int>(clients_.size()));
        break;
      case 9:
      case 10:
        if (!ends_.empty()) ends_[(how / kCommands) % ends_.size()]->Obey(static_cast<Command>(command));
        break;
      case 11:
        for (int i = 0; i <= how % 4; ++i) co_await Yield(reactor_);
        break;
      case 12: co_await Sleep(reactor_, (how % 4) * kMillisecond); break;
      default: connects_.Spawn(ConnectToSelf(how)); break;
    }
  }

  Task<void> ConnectToSelf(uint8_t how) {
    // Some connects time out before the kernel has answered.
    const Nanos timeout_ns = how % 4 == 0 ? 0 : kSecond;
    Result<Connection*> connection = co_await reactor_.Connect("127.0.0.1", port_, timeout_ns);
    if (!connection.ok()) co_return;
    OnAccept(*connection);
    std::string command(1, static_cast<char>(how % kCommands));
    (*connection)->Send(&command);
  }

  UringReactor& reactor_;
  uint16_t port_ = 0;
  std::vector<std::unique_ptr<End>> ends_;
  std::vector<std::unique_ptr<Client>> clients_;
  TaskGroup connects_;
};

}  // namespace

void RunNetworkScript(std::span<const uint8_t> script) {
  UringOptions options;
  options.submission_entries = 32;
  options.completion_entries = 256;
  options.registered_files = 0;
  options.network.receive_buffers = 4;
  options.network.receive_buffer_bytes = 1024;
  options.network.drain_limit_ns = 4 * kMillisecond;
  options.network.linger_limit_ns = 2 * kMillisecond;
  Result<std::unique_ptr<Reactor>> made = MakeUringReactor(options);
  CHECK(made.ok()) << made.status().ToString();
  auto& reactor = static_cast<UringReactor&>(**made);
  NetworkScript run(reactor);
  RunBlocking(reactor, run.Run(script));
}

}  // namespace pando
