// FrameTransport is the transport that Thrift's protocol templates read from and write to. It reads
// one received frame and appends to one string.
//
// The protocols are instantiated with this type (TBinaryProtocolT<FrameTransport>), so every read
// and write is inlined. It inherits the virtual interface of TTransport only because the templates
// require it.
//
// Threads: one reactor.
#pragma once

#include <thrift/transport/TTransportException.h>
#include <thrift/transport/TVirtualTransport.h>

#include <cstring>
#include <string>
#include <string_view>

namespace pando {

class FrameTransport final : public apache::thrift::transport::TVirtualTransport<FrameTransport> {
 public:
  bool isOpen() const override { return true; }

  // `bytes` must outlive the reads.
  void SetInput(std::string_view bytes) {
    next_ = reinterpret_cast<const uint8_t*>(bytes.data());
    end_ = next_ + bytes.size();
    size_ = static_cast<long>(bytes.size());
  }
  void SetOutput(std::string* out) { out_ = out; }
  std::string* output() const { return out_; }

  uint32_t read(uint8_t* buf, uint32_t len) { return readAll(buf, len); }
  uint32_t readAll(uint8_t* buf, uint32_t len) {
    if (len > static_cast<size_t>(end_ - next_)) ThrowShort();
    std::memcpy(buf, next_, len);
    next_ += len;
    return len;
  }
  const uint8_t* borrow(uint8_t* /*buf*/, uint32_t* len) {
    if (*len > static_cast<size_t>(end_ - next_)) return nullptr;
    *len = static_cast<uint32_t>(end_ - next_);
    return next_;
  }
  void consume(uint32_t len) {
    if (len > static_cast<size_t>(end_ - next_)) ThrowShort();
    next_ += len;
  }
  // The compact protocol calls this after it has consumed bytes, so the check uses the size of the
  // whole frame. That is enough to refuse a container that the frame cannot hold before it is
  // allocated.
  void checkReadBytesAvailable(long bytes) {
    if (bytes > size_) ThrowShort();
  }

  void write(const uint8_t* buf, uint32_t len) { out_->append(reinterpret_cast<const char*>(buf), len); }

 private:
  [[noreturn]] static void ThrowShort() {
    throw apache::thrift::transport::TTransportException(apache::thrift::transport::TTransportException::END_OF_FILE,
                                                         "the frame ends inside a value");
  }
  const uint8_t* next_ = nullptr;
  const uint8_t* end_ = nullptr;
  long size_ = 0;
  std::string* out_ = nullptr;
};

}  // namespace pando
