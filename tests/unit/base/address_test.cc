#include "src/base/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pando {
namespace {

using testing::HasSubstr;

TEST(HostPort, ReadsAndWritesBothFamilies) {
  for (const auto& [text, host, port] :
       {std::tuple("127.0.0.1:7420", "127.0.0.1", 7420), std::tuple("localhost:1", "localhost", 1),
        std::tuple("[::1]:7420", "::1", 7420), std::tuple("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535)}) {
    Result<HostPort> address = ParseHostPort(text);
    ASSERT_TRUE(address.ok()) << address.status().ToString();
    EXPECT_EQ(address->host, host);
    EXPECT_EQ(address->port, port);
    EXPECT_EQ(FormatHostPort(address->host, address->port), text);
  }
  EXPECT_EQ(ParseHostPort("[::]:0", /*any_port=*/true)->port, 0);
}

TEST(HostPort, SaysWhatIsWrong) {
  for (const auto& [text, why] :
       {std::pair("", "port is missing"), std::pair("7420", "port is missing"), std::pair(":7420", "host is missing"),
        std::pair("[]:7420", "host is missing"), std::pair("::1:7420", "in brackets"),
        std::pair("[::1:7420", "not closed"), std::pair("[::1]", "must be followed by the port"),
        std::pair("[::1]7420", "must be followed by the port"), std::pair("localhost:", "from 1 to 65535"),
        std::pair("localhost:0", "from 1 to 65535"), std::pair("localhost:x", "from 1 to 65535"),
        std::pair("localhost:65536", "from 1 to 65535"), std::pair("localhost:12 ", "separated by commas"),
        std::pair("localhost:+12", "from 1 to 65535"), std::pair("local host:12", "separated by commas"),
        std::pair("a:1;b:2", "separated by commas"), std::pair("http://a:12", "leave out what is before the host"),
        std::pair("a]:12", "has a bracket")}) {
    Result<HostPort> address = ParseHostPort(text);
    EXPECT_EQ(address.code(), Code::kInvalidArgument) << text;
    EXPECT_THAT(address.status().message(), HasSubstr(why)) << text;
  }
}

}  // namespace
}  // namespace pando
