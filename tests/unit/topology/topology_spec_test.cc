#include "src/topology/topology_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pando {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TopologySpec, Directories) {
  EXPECT_EQ(ParseTopologySpec("file:/var/lib/pando/topology")->directory, "/var/lib/pando/topology");
  EXPECT_EQ(ParseTopologySpec("file:run/topology")->directory, "run/topology");
}

TEST(TopologySpec, Etcd) {
  Result<TopologySpec> spec = ParseTopologySpec("etcd://h1:2379,[::1]:2380/production");
  ASSERT_TRUE(spec.ok()) << spec.status().ToString();
  EXPECT_EQ(spec->directory, "");
  EXPECT_THAT(spec->etcd.endpoints, ElementsAre("h1:2379", "[::1]:2380"));
  EXPECT_EQ(spec->etcd.name, "production");
  EXPECT_EQ(spec->etcd.ca_file, "");
  spec = ParseTopologySpec("etcd://h1:2379/a_B-3?ca=/etc/ca.pem&cert=/etc/c.pem&key=/etc/k=1.pem");
  ASSERT_TRUE(spec.ok()) << spec.status().ToString();
  EXPECT_EQ(spec->etcd.name, "a_B-3");
  EXPECT_EQ(spec->etcd.ca_file, "/etc/ca.pem");
  EXPECT_EQ(spec->etcd.cert_file, "/etc/c.pem");
  EXPECT_EQ(spec->etcd.key_file, "/etc/k=1.pem");
}

TEST(TopologySpec, ClearErrors) {
  const std::pair<const char*, const char*> kCases[] = {
      {"", "must begin with file: or etcd://"},
      {"/var/lib/pando", "must begin with file: or etcd://"},
      {"http://h1:2379/x", "must begin with file: or etcd://"},
      {"file:", "the directory is missing"},
      {"file:///var/lib/pando", "without slashes before its path"},
      {"etcd:///x", "names no server"},
      {"etcd://", "names no server"},
      {"etcd://h1/x", "the port is missing"},
      {"etcd://h1:0/x", "the port must be a number"},
      {"etcd://h1:2379", "the name of the topology is missing"},
      {"etcd://h1:2379/", "the name of the topology is missing"},
      {"etcd://h1:2379/a/b", "\"a/b\" is not a name"},
      {"etcd://h1:2379/a b", "is not a name"},
      {"etcd://h1:2379,/x", "ends with a comma"},
      {"etcd://h1:2379,,h2:2379/x", "the port is missing"},
      {"etcd://h1:2379,h1:2379/x", "names h1:2379 twice"},
      {"etcd://root:secret@h1:2379/x", "a user and a password cannot be given"},
      {"etcd://h1:2379/x?tls=1", "no parameter \"tls\""},
      {"etcd://h1:2379/x?ca=", "has no value"},
      {"etcd://h1:2379/x?ca=a&ca=b", "given twice"},
      {"etcd://h1:2379/x?ca=a&cert=b", "cert and key need each other"},
      {"etcd://h1:2379/x?cert=a&key=b", "needs ca"},
  };
  for (const auto& [text, why] : kCases) {
    Result<TopologySpec> spec = ParseTopologySpec(text);
    EXPECT_EQ(spec.code(), Code::kInvalidArgument) << text;
    EXPECT_THAT(spec.status().message(), HasSubstr(why));
    EXPECT_THAT(spec.status().message(), HasSubstr("Examples: file:/var/lib"));
  }
}

}  // namespace
}  // namespace pando
