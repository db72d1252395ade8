#include "src/node/guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

namespace pando {
namespace {

GuardNews SomeNews() {
  GuardNews news;
  news.cluster_id = *Uuid::Parse("00112233-4455-6677-8899-aabbccddeeff");
  news.node = 3;
  news.incarnation = 1ull << 40;
  news.protocol = 7;
  news.peers[1] = {"127.0.0.1:7430", "127.0.0.1:7431"};
  news.peers[2] = {};
  return news;
}

TEST(GuardNews, ComesBackAsItWas) {
  const std::string line = EncodeGuardNews(SomeNews());
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  Result<GuardNews> decoded = DecodeGuardNews(line);
  ASSERT_TRUE(decoded.ok()) << decoded.status().ToString();
  EXPECT_EQ(*decoded, SomeNews());
}

TEST(GuardNews, OtherTextIsRefused) {
  for (const char* text : {"", "{", "[]", "7", "{\"node\":1}", "{\"cluster_id\":\"x\",\"node\":1}"}) {
    EXPECT_EQ(DecodeGuardNews(text).code(), Code::kCorruption) << text;
  }
  const std::string line = EncodeGuardNews(SomeNews());
  for (size_t bytes = 0; bytes + 1 < line.size(); ++bytes) {
    EXPECT_FALSE(DecodeGuardNews(line.substr(0, bytes)).ok()) << bytes;
  }
}

// A guard that does not read must not make the node wait, and gets whole lines once it reads.
TEST(GuardLink, DoesNotWaitForTheGuard) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
  GuardLink link(ends[1]);
  GuardNews news = SomeNews();
  for (uint32_t i = 0; i < 2000; ++i) {  // far more than the pipe holds
    news.peers[2] = {"127.0.0.1:" + std::to_string(1000 + i)};
    link.Tell(news);
  }
  std::string text;
  char bytes[4096];
  for (ssize_t got = 0; (got = read(ends[0], bytes, sizeof(bytes))) > 0 || text.empty() || text.back() != '\n';) {
    if (got > 0) {
      text.append(bytes, static_cast<size_t>(got));
    } else {
      link.Tell(news);  // what it has not taken yet
    }
  }
  const size_t last = text.rfind('\n', text.size() - 2);
  Result<GuardNews> decoded = DecodeGuardNews(text.substr(last + 1));
  ASSERT_TRUE(decoded.ok());
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace pando
