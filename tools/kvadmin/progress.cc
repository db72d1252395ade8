#include "tools/kvadmin/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "tools/common/output.h"
#include "tools/common/table.h"

namespace pando::admin {

namespace {

constexpr auto kTerminalPeriod = std::chrono::milliseconds(200);
constexpr auto kPlainPeriod = std::chrono::seconds(5);

}  // namespace

Progress::Progress(std::string verb, std::string unit, uint64_t total, bool quiet)
    : verb_(std::move(verb)),
      unit_(std::move(unit)),
      total_(total),
      quiet_(quiet),
      terminal_(::isatty(STDERR_FILENO) == 1),
      next_(start_ + (terminal_ ? Clock::duration(kTerminalPeriod) : Clock::duration(kPlainPeriod))) {}

Progress::~Progress() { Clear(); }

double Progress::ElapsedSeconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

std::string Progress::Line(const std::string& unit, uint64_t count, uint64_t bytes, uint64_t done, uint64_t total,
                           double seconds) {
  std::string line;
  if (total > 0) {
    double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    constexpr size_t kBar = 20;
    auto filled = static_cast<size_t>(share * kBar);
    line = fmt::format("[{}{}] {:3.0f}% ", std::string(filled, '#'), std::string(kBar - filled, '.'), share * 100);
  }
  double rate = seconds > 0 ? static_cast<double>(count) / seconds : 0;
  double byte_rate = seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
  line += fmt::format("{} {}  {}/s  {}/s", tools::HumanCount(static_cast<double>(count)), unit, tools::HumanCount(rate),
                      tools::HumanBytes(byte_rate));
  if (total > 0 && done > 0 && done < total) {
    double left = seconds * static_cast<double>(total - done) / static_cast<double>(done);
    line += "  ETA " + tools::HumanSeconds(left);
  }
  return line;
}

void Progress::Update(uint64_t count, uint64_t bytes, uint64_t done) {
  if (quiet_) return;
  Clock::time_point now = Clock::now();
  if (now < next_) return;
  next_ = now + (terminal_ ? Clock::duration(kTerminalPeriod) : Clock::duration(kPlainPeriod));
  std::string line = verb_ + " " + Line(unit_, count, bytes, done, total_, ElapsedSeconds());
  if (terminal_) {
    tools::PrintNote("\r\x1b[K{}", line);
    drawn_ = true;
  } else {
    tools::PrintNote("{}\n", line);
  }
}

void Progress::Clear() {
  if (!drawn_) return;
  tools::PrintNote("\r\x1b[K");
  drawn_ = false;
}

}  // namespace pando::admin
