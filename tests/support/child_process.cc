#include "tests/support/child_process.h"

#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "src/base/check.h"

namespace pando {
namespace {

pid_t Fork(const std::function<bool()>& part) {
  std::fflush(nullptr);  // otherwise the child prints the parent's buffered output a second time
  const pid_t pid = fork();
  PCHECK(pid >= 0) << "fork";
  if (pid > 0) return pid;
  const bool ok = part();
  std::fflush(nullptr);
  _exit(ok ? 0 : 1);  // no destructors and no leak check: the child abandons memory on purpose
}

std::string Explain(int status) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
  if (WIFEXITED(status)) return fmt::format("the child process failed with exit status {}", WEXITSTATUS(status));
  return fmt::format("the child process was killed by signal {}", WTERMSIG(status));
}

}  // namespace

bool InChildProcess(const std::function<bool()>& part, std::string* what) {
  int status = 0;
  const pid_t pid = Fork(part);
  PCHECK(waitpid(pid, &status, 0) == pid);
  const std::string message = Explain(status);
  if (what) *what = message;
  return message.empty();
}

std::string InBatches(uint64_t cases, uint64_t batch, unsigned jobs,
                      const std::function<bool(uint64_t, uint64_t)>& part) {
  CHECK(batch > 0 && jobs > 0);
  std::map<pid_t, std::pair<uint64_t, uint64_t>> running;
  std::string failure;
  uint64_t next = 0;
  while (!running.empty() || (next < cases && failure.empty())) {
    if (next < cases && running.size() < jobs && failure.empty()) {
      const uint64_t first = next, last = std::min(cases, next + batch);
      next = last;
      running[Fork([&] { return part(first, last); })] = {first, last};
      continue;
    }
    int status = 0;
    const pid_t pid = waitpid(-1, &status, 0);
    PCHECK(pid > 0) << "waitpid";
    auto it = running.find(pid);
    if (it == running.end()) continue;
    const std::string message = Explain(status);
    if (!message.empty() && failure.empty()) {
      failure = fmt::format("cases [{}, {}): {}", it->second.first, it->second.second, message);
    }
    running.erase(it);
  }
  return failure;
}

}  // namespace pando
