#include "tools/kvadmin/input_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ios>
#include <streambuf>
#include <vector>

#include "tools/common/interrupts.h"

namespace pando::admin {

namespace {
constexpr size_t kBufferBytes = 1u << 20;
}  // namespace

class InputFile::Buffer final : public std::streambuf {
 public:
  Buffer(int fd, std::string name) : fd_(fd), name_(std::move(name)), bytes_(kBufferBytes) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() override {
    if (fd_ != STDIN_FILENO) ::close(fd_);
  }
  const Status& status() const { return status_; }
  int fd() const { return fd_; }

 private:
  int_type underflow() override {
    for (;;) {
      status_ = tools::Interrupts::Check();
      if (!status_.ok()) throw std::ios_base::failure("interrupted");  // sets the stream's bad bit
      pollfd ready[] = {{fd_, POLLIN, 0}, {tools::Interrupts::Descriptor(), POLLIN, 0}};
      if (::poll(ready, 2, -1) < 0 && errno != EINTR) break;
      if (ready[1].revents != 0 || ready[0].revents == 0) continue;
      const ssize_t got = ::read(fd_, bytes_.data(), bytes_.size());
      if (got == 0) return traits_type::eof();
      if (got > 0) {
        setg(bytes_.data(), bytes_.data(), bytes_.data() + got);
        return traits_type::to_int_type(bytes_[0]);
      }
      if (errno != EINTR && errno != EAGAIN) break;
    }
    status_ = ErrnoError(errno, "read {}", name_);
    throw std::ios_base::failure("read");
  }

  const int fd_;
  const std::string name_;
  std::vector<char> bytes_;
  Status status_;
};

InputFile::InputFile(std::unique_ptr<Buffer> buffer, uint64_t size_bytes)
    : buffer_(std::move(buffer)), stream_(buffer_.get()), size_bytes_(size_bytes) {}

InputFile::~InputFile() = default;

const Status& InputFile::status() const { return buffer_->status(); }

bool InputFile::IsSame(int fd) const {
  struct stat mine {
  }, other{};
  return ::fstat(buffer_->fd(), &mine) == 0 && ::fstat(fd, &other) == 0 && S_ISREG(mine.st_mode) &&
         mine.st_dev == other.st_dev && mine.st_ino == other.st_ino;
}

Result<std::unique_ptr<InputFile>> InputFile::Open(const std::string& path) {
  const bool standard = path == "-";
  const std::string name = standard ? "standard input" : path;
  const int fd = standard ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoError(errno, "open {}", name);
  auto buffer = std::make_unique<Buffer>(fd, name);
  struct stat info {};
  if (::fstat(fd, &info) != 0) return ErrnoError(errno, "read {}", name);
  if (S_ISDIR(info.st_mode)) return Error(Code::kInvalidArgument, "{} is a directory; name a file", name);
  const auto size_bytes = S_ISREG(info.st_mode) ? static_cast<uint64_t>(info.st_size) : 0;
  return std::unique_ptr<InputFile>(new InputFile(std::move(buffer), size_bytes));
}

Result<std::string> ReadInput(const std::string& path, uint64_t most_bytes) {
  ASSIGN_OR_RETURN(std::unique_ptr<InputFile> file, InputFile::Open(path));
  std::string all;
  std::vector<char> piece(64u << 10);
  while (file->stream().read(piece.data(), static_cast<std::streamsize>(piece.size())) || file->stream().gcount() > 0) {
    all.append(piece.data(), static_cast<size_t>(file->stream().gcount()));
    if (all.size() > most_bytes) return Error(Code::kInvalidArgument, "{} is larger than {} bytes", path, most_bytes);
  }
  RETURN_IF_ERROR(file->status());
  return Result<std::string>(std::move(all));
}

}  // namespace pando::admin
