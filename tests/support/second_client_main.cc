// A second load generator, which shares no code with kvbench: sockets, epoll, and frames built by
// hand. It exists to check kvbench: both must measure about the same. It is never shipped.
//
//   kvbench_second_client PORT get|put [CONNECTIONS=50] [DEPTH=1] [SECONDS=5] [KEYS=100000] [PID=0]
//
// Prints requests per second, and with the server's PID its CPU time per request. The keys are those
// of `kvbench run --key_bytes=16` only by number; load them with this program's `put` first.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr size_t kValueBytes = 1000;

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(3);
}

void Big32(std::string* out, uint32_t v) {
  for (int shift = 24; shift >= 0; shift -= 8) out->push_back(static_cast<char>(v >> shift));
}

// One framed call in Thrift's strict binary protocol. Both methods have the argument struct
// {1: context, 2: request}; a request is {1: key} or {1: key, 2: value}.
std::string Call(bool put, uint64_t number, const std::string& value) {
  std::string body("\x80\x01\x00\x01", 4);
  Big32(&body, 3);
  body += put ? "put" : "get";
  Big32(&body, static_cast<uint32_t>(number));
  body += std::string("\x0c\x00\x02", 3);
  char key[17];
  std::snprintf(key, sizeof(key), "second:%09u", static_cast<unsigned>(number % 1'000'000'000));
  body += std::string("\x0b\x00\x01", 3);
  Big32(&body, 16);
  body.append(key, 16);
  if (put) {
    body += std::string("\x0b\x00\x02", 3);
    Big32(&body, static_cast<uint32_t>(value.size()));
    body += value;
  }
  body += std::string(2, '\0');
  std::string frame;
  Big32(&frame, static_cast<uint32_t>(body.size()));
  return frame + body;
}

struct Peer {
  int fd = -1;
  std::string in;
};

double CpuSeconds(int pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(stat, line);
  const size_t name_end = line.rfind(')');
  unsigned long user = 0, system = 0;
  if (name_end == std::string::npos ||
      std::sscanf(line.c_str() + name_end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                  &system) != 2)
    return 0;
  return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

int Connect(uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || ::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0) Die("connect");
  const int one = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  return fd;
}

void SendAll(int fd, const std::string& bytes) {
  for (size_t sent = 0; sent < bytes.size();) {
    const ssize_t n = ::send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) Die("send");
    sent += static_cast<size_t>(n);
  }
}

// Returns how many replies ended in `bytes`. A get must have found its record.
size_t CountReplies(Peer* peer, const char* bytes, size_t count) {
  size_t replies = 0;
  peer->in.append(bytes, count);
  while (peer->in.size() >= 4) {
    uint32_t length;
    std::memcpy(&length, peer->in.data(), 4);
    length = __builtin_bswap32(length);
    if (peer->in.size() < 4 + length) break;
    // After the header of 15 bytes: field 0 (success) is a struct; field 1 would be the error.
    if (length < 19 || peer->in[4 + 15 + 2] != 0) {
      std::fprintf(stderr, "a request was refused\n");
      std::exit(3);
    }
    peer->in.erase(0, 4 + length);
    ++replies;
  }
  return replies;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s PORT get|put [CONNECTIONS] [DEPTH] [SECONDS] [KEYS] [PID]\n", argv[0]);
    return 2;
  }
  auto number = [&](int i, long otherwise) { return argc > i ? std::atol(argv[i]) : otherwise; };
  const bool put = std::strcmp(argv[2], "put") == 0;
  const long connections = number(3, 50), depth = number(4, 1), seconds = number(5, 5), keys = number(6, 100'000);
  const int pid = static_cast<int>(number(7, 0));
  std::mt19937_64 random(7);
  std::string value(kValueBytes, 'v');
  for (size_t i = 0; i < kValueBytes / 2; ++i) value[i] = static_cast<char>(random());
  const int poll = ::epoll_create1(0);
  std::vector<Peer> peers(static_cast<size_t>(connections));
  auto request = [&] { return Call(put, random() % static_cast<uint64_t>(keys), value); };
  for (size_t i = 0; i < peers.size(); ++i) {
    peers[i].fd = Connect(static_cast<uint16_t>(number(1, 0)));
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = i;
    ::epoll_ctl(poll, EPOLL_CTL_ADD, peers[i].fd, &event);
    std::string first;
    for (long d = 0; d < depth; ++d) first += request();
    SendAll(peers[i].fd, first);
  }
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto measured = begin + std::chrono::seconds(1), end = measured + std::chrono::seconds(seconds);
  uint64_t replies = 0, replies_before = 0;
  double cpu_before = -1;
  std::vector<char> buffer(256 << 10);
  for (auto now = begin; now < end; now = Clock::now()) {
    if (cpu_before < 0 && now >= measured) {
      cpu_before = CpuSeconds(pid);
      replies_before = replies;
    }
    epoll_event events[64];
    const int ready = ::epoll_wait(poll, events, 64, 100);
    for (int i = 0; i < ready; ++i) {
      Peer& peer = peers[events[i].data.u64];
      const ssize_t n = ::recv(peer.fd, buffer.data(), buffer.size(), 0);
      if (n <= 0) Die("recv");
      const size_t ended = CountReplies(&peer, buffer.data(), static_cast<size_t>(n));
      replies += ended;
      std::string next;
      for (size_t r = 0; r < ended; ++r) next += request();
      if (!next.empty()) SendAll(peer.fd, next);
    }
  }
  const double took = std::chrono::duration<double>(Clock::now() - measured).count();
  const auto done = static_cast<double>(replies - replies_before);
  std::printf("%s: %.0f requests/s", argv[2], done / took);
  if (pid > 0) std::printf(", %.2f us of server CPU each", 1e6 * (CpuSeconds(pid) - cpu_before) / done);
  std::printf("\n");
  return 0;
}
