#include "src/node/guard.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "src/base/address.h"
#include "src/io/call_on.h"
#include "src/io/sync.h"
#include "src/io/task.h"
#include "src/io/uring_reactor.h"
#include "src/replication/wire.h"

namespace pando {

namespace {

using nlohmann::json;

constexpr size_t kMaxNewsBytes = 4u << 20;  // of a line
constexpr Nanos kNotifyLimitNs = 500 * kMillisecond;
constexpr int kForwarded[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCONT};

volatile sig_atomic_t node_process = 0;  // 0: it has ended

void Forward(int signal) {
  const int error = errno;
  if (node_process > 0) kill(node_process, signal);
  errno = error;
}

// -- telling the others

// One peer's reactor is told. What it answers does not matter.
class Notice final : private ConnectionHandler {
 public:
  Notice(Reactor* reactor, std::string frames) : done_(*reactor), frames_(std::move(frames)) {}

  Task<void> Send(Reactor* reactor, std::string host, uint16_t port) {
    Result<Connection*> connection = co_await reactor->Connect(std::move(host), port, kNotifyLimitNs);
    if (!connection.ok()) co_return;
    open_ = true;
    (*connection)->SetHandler(this);
    (*connection)->Send(&frames_);
    (*connection)->Close(/*now=*/false);
    while (open_) co_await done_.Wait();
  }

 private:
  void OnData(std::span<const char>) override {}
  void OnSent() override {}
  void OnClosed(const Status&) override {
    open_ = false;
    done_.NotifyAll();
  }

  WaitQueue done_;
  std::string frames_;
  bool open_ = false;
};

Task<void> NotifyOne(Reactor* reactor, std::string frames, HostPort address) {
  Notice notice(reactor, std::move(frames));
  co_await notice.Send(reactor, std::move(address.host), address.port);
}

}  // namespace

Task<void> NotifyPeers(Reactor* reactor, const GuardNews* news) {
  TaskGroup notices;
  for (const auto& [node, addresses] : news->peers) {
    for (uint32_t r = 0; r < addresses.size(); ++r) {
      Result<HostPort> address = ParseHostPort(addresses[r]);
      if (!address.ok()) continue;
      replication::PeerHello hello;
      hello.cluster_id = news->cluster_id;
      hello.from = news->node;
      hello.to = node;
      hello.to_reactor = r;
      hello.incarnation = news->incarnation;
      hello.protocol = news->protocol;
      hello.guard = true;
      std::string frames =
          replication::HelloFrame(hello) + replication::DeathNoticeFrame(news->node, news->incarnation);
      notices.Spawn(NotifyOne(reactor, std::move(frames), *std::move(address)));
    }
  }
  co_await notices.Drain();
}

namespace {

void Notify(const GuardNews& news) {
  Result<std::unique_ptr<Reactor>> reactor = MakeUringReactor({});
  if (!reactor.ok()) {
    std::fprintf(stderr, "kvnode: the guard cannot tell the other nodes that this one has ended: %s\n",
                 reactor.status().message().c_str());
    return;
  }
  RunBlocking(**reactor, NotifyPeers(reactor->get(), &news));
}

// -- the guard's process

// Returns what the node said last, once its end of the pipe is closed.
GuardNews ReadNews(int pipe) {
  GuardNews news;
  std::string unread;
  char bytes[16 << 10];
  while (true) {
    const ssize_t got = read(pipe, bytes, sizeof(bytes));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return news;
    unread.append(bytes, static_cast<size_t>(got));
    const size_t end = unread.rfind('\n');
    if (end != std::string::npos) {
      const size_t line = end == 0 ? std::string::npos : unread.rfind('\n', end - 1);
      const size_t begin = line == std::string::npos ? 0 : line + 1;
      if (Result<GuardNews> newer = DecodeGuardNews(unread.substr(begin, end - begin)); newer.ok()) news = *newer;
      unread.erase(0, end + 1);
    }
    if (unread.size() > kMaxNewsBytes) unread.clear();
  }
}

[[noreturn]] void Guard(int pipe) {
  std::signal(SIGPIPE, SIG_IGN);
  const GuardNews news = ReadNews(pipe);
  int status = 0;
  pid_t waited;
  do waited = waitpid(node_process, &status, 0);
  while (waited < 0 && errno == EINTR);
  node_process = 0;
  if (waited < 0) _exit(1);  // then nothing proves that it has ended
  if (news.node != 0) Notify(news);
  if (WIFSIGNALED(status)) {
    std::fprintf(stderr, "kvnode: the node's process was ended by signal %d (%s)\n", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    std::fflush(stderr);
    std::signal(WTERMSIG(status), SIG_DFL);
    raise(WTERMSIG(status));
    _exit(128 + WTERMSIG(status));
  }
  _exit(WEXITSTATUS(status));
}

}  // namespace

std::string EncodeGuardNews(const GuardNews& news) {
  json peers = json::object();
  for (const auto& [node, addresses] : news.peers) peers[std::to_string(node)] = addresses;
  const json line = {{"cluster_id", news.cluster_id.ToString()},
                     {"node", news.node},
                     {"incarnation", news.incarnation},
                     {"protocol", news.protocol},
                     {"peers", std::move(peers)}};
  return line.dump() + '\n';
}

Result<GuardNews> DecodeGuardNews(const std::string& line) {
  const json parsed = json::parse(line, nullptr, /*allow_exceptions=*/false);
  GuardNews news;
  try {
    std::optional<Uuid> cluster = Uuid::Parse(parsed.at("cluster_id").get<std::string>());
    if (!cluster) return Error(Code::kCorruption, "the news for the guard name no cluster");
    news.cluster_id = *cluster;
    news.node = parsed.at("node").get<NodeId>();
    news.incarnation = parsed.at("incarnation").get<uint64_t>();
    news.protocol = parsed.at("protocol").get<uint32_t>();
    for (const auto& [node, addresses] : parsed.at("peers").items()) {
      news.peers[static_cast<NodeId>(std::stoul(node))] = addresses.get<std::vector<std::string>>();
    }
  } catch (const std::exception& e) {
    return Error(Code::kCorruption, "the news for the guard cannot be read: {}", e.what());
  }
  return news;
}

int RunGuarded() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    std::fprintf(stderr, "kvnode: there is no guard: no pipe: %s\n", std::strerror(errno));
    return -1;
  }
  // Signals that come before the guard passes them on wait until it does.
  sigset_t forwarded, before;
  sigemptyset(&forwarded);
  for (int signal : kForwarded) sigaddset(&forwarded, signal);
  sigprocmask(SIG_BLOCK, &forwarded, &before);
  std::signal(SIGCHLD, SIG_DFL);  // if it were ignored, nobody could wait for the node
  const pid_t guard = getpid();
  node_process = fork();
  if (node_process < 0) {
    std::fprintf(stderr, "kvnode: there is no guard: no second process: %s\n", std::strerror(errno));
    sigprocmask(SIG_SETMASK, &before, nullptr);
    close(ends[0]);
    close(ends[1]);
    return -1;
  }
  if (node_process > 0) {
    close(ends[1]);
    for (int signal : kForwarded) {
      struct sigaction inherited {};
      if (sigaction(signal, nullptr, &inherited) == 0 && inherited.sa_handler == SIG_IGN) continue;  // nohup
      struct sigaction action {};
      action.sa_handler = Forward;
      action.sa_flags = SA_RESTART;
      sigaction(signal, &action, nullptr);
    }
    sigprocmask(SIG_SETMASK, &before, nullptr);
    Guard(ends[0]);
  }
  close(ends[0]);
  // A terminal sends its signals to the guard alone, which passes them on: else the node would get each twice.
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != guard) _exit(1);  // it was killed meanwhile
  sigprocmask(SIG_SETMASK, &before, nullptr);
  fcntl(ends[1], F_SETFL, O_NONBLOCK);
  return ends[1];
}

void GuardLink::Tell(const GuardNews& news) {
  if (descriptor_ < 0) return;
  std::string line = EncodeGuardNews(news);
  if (line != told_ && unsent_.size() < kMaxNewsBytes) {
    // A line that has been sent in part must be finished first.
    unsent_ += line;
    told_ = std::move(line);
  }
  while (!unsent_.empty()) {
    const ssize_t sent = write(descriptor_, unsent_.data(), unsent_.size());
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return;
    unsent_.erase(0, static_cast<size_t>(sent));
  }
}

}  // namespace pando
