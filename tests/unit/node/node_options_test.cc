// Tests which options a node refuses, and how it divides its memory and descriptors.
#include "src/node/node_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "src/engine/engine.h"

namespace pando {
namespace {

using testing::HasSubstr;

TEST(NodeOptions, AreCheckedByName) {
  NodeOptions options;
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--data_dir"));
  options.data_dir = "d";
  EXPECT_TRUE(CheckOptions(options).ok());
  options.partitions = 12;
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--partitions=12"));
  options.partitions = 8;
  options.page_bytes = 5000;
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--page_bytes=5000"));
  options.page_bytes = 0;
  options.partitions = 131072;  // more than a store can have
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--partitions=131072; it must be a power of two up to 65536"));
  options.partitions = 8;
  options.http_port = 70000;
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--http_port=70000"));
  options.http_port = options.port = 7420;
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--listen and --http_port both name port 7420"));
  options.http_port = 0;
  // In nanoseconds it would overflow.
  options.checkpoint_interval_s = INT64_MAX;
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--checkpoint_interval_s=9223372036854775807"));
  options.checkpoint_interval_s = 60;
  options.data_dir = "--listen=127.0.0.1:0";
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("looks like a flag"));
}

// The topology tells others where a node listens, and nobody can connect to "any address".
TEST(NodeOptions, ANodeOfAClusterListensOnAnAddressThatOthersCanUse) {
  NodeOptions options;
  options.data_dir = "d";
  options.host = "0.0.0.0";
  EXPECT_TRUE(CheckOptions(options).ok()) << "a node that is alone may";
  options.topology = "file:/t";
  options.node_id = 1;
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--listen=0.0.0.0 names no machine"));
  options.host = "::";
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--listen=:: names no machine"));
  options.host = "10.0.0.1";
  EXPECT_TRUE(CheckOptions(options).ok());
  options.peer_host = "0.0.0.0";
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--peer_listen=0.0.0.0 names no machine"));
}

// The ports of other nodes begin at that of --peer_listen; before the store is read, only the first is known.
TEST(NodeOptions, TwoFlagsCannotNameOnePort) {
  NodeOptions options;
  options.data_dir = "d";
  options.topology = "file:/t";
  options.node_id = 1;
  options.port = 7420;
  options.http_port = 7435;
  options.peer_host = options.host;
  options.peer_port = 7420;
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--listen and --peer_listen both name port 7420"));
  options.peer_host = "10.0.0.1";
  EXPECT_TRUE(CheckOptions(options).ok()) << "on another host it is another port";
  options.peer_host = options.host;
  options.peer_port = 7419;
  EXPECT_TRUE(CheckOptions(options).ok());
  options.reactors = 2;
  EXPECT_THAT(
      CheckOptions(options).message(),
      HasSubstr("--listen and --peer_listen both name port 7420: --peer_listen takes 7419 to 7420, one for each"));
  options.peer_port = 7430;
  options.reactors = 5;
  EXPECT_TRUE(CheckOptions(options).ok());
  options.reactors = 6;
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--http_port and --peer_listen both name port 7435"));
  options.peer_port = 0;
  EXPECT_TRUE(CheckOptions(options).ok());
}

// Two flags that are mixed up would put a store among the files of the map.
TEST(NodeOptions, TheStoreIsApartFromTheTopology) {
  namespace fs = std::filesystem;
  const fs::path root = fs::path(testing::TempDir()) / fmt::format("node-options-{}", ::getpid());
  fs::create_directories(root / "map");
  fs::create_directory_symlink(root / "map", root / "link");
  NodeOptions options;
  options.node_id = 1;
  const auto refusal = [&](const fs::path& data_dir, const fs::path& map) {
    options.data_dir = data_dir.string();
    options.topology = "file:" + map.string();
    const Status status = CheckOptions(options);
    EXPECT_TRUE(status.ok() || status.code() == Code::kInvalidArgument) << status.ToString();
    return status.message();
  };
  const std::string is = "is the directory of the topology", holds = "holds the directory of the topology",
                    in = "lies in the directory of the topology";
  EXPECT_THAT(refusal(root / "map", root / "map"), HasSubstr(is));
  EXPECT_THAT(refusal(root / "map/", root / "map/../map"), HasSubstr(is));
  EXPECT_THAT(refusal(root / "link", root / "map"), HasSubstr(is));
  EXPECT_THAT(refusal(root / "map", root / "link"), HasSubstr(is));
  EXPECT_THAT(refusal(root, root / "map"), HasSubstr(holds));
  EXPECT_THAT(refusal("/", root / "map"), HasSubstr(holds));
  EXPECT_THAT(refusal(root / "map/node-1", root / "map"), HasSubstr(in));
  EXPECT_THAT(refusal(root / "link/a/b", root / "map"), HasSubstr(in));
  EXPECT_THAT(refusal(root / "map", root / "map"), HasSubstr("if it has served before, the one that it had"));
  EXPECT_EQ(refusal(root / "map-1", root / "map"), "");
  EXPECT_EQ(refusal(root / "node-1", root / "map"), "");
  EXPECT_EQ(refusal(root / "map", root / "map-of-another"), "");
  options.topology = "etcd://10.0.0.1:2379/production";
  EXPECT_TRUE(CheckOptions(options).ok());
  fs::remove_all(root);
}

TEST(NodeOptions, ALogNeedsRoomForAFewBatches) {
  NodeOptions options;
  for (uint32_t reactors : {1u, 2u, 64u}) EXPECT_TRUE(CheckLogBudget(options, reactors).ok()) << reactors;
  options.log_budget_bytes = 0;
  EXPECT_THAT(CheckLogBudget(options, 2).message(), HasSubstr("--log_budget_mb=0 is too small for the logs of 2"));
  options.log_budget_bytes = 15u << 20;
  EXPECT_THAT(CheckLogBudget(options, 2).message(), HasSubstr("give at least 16"));
  options.log_budget_bytes = 16u << 20;
  EXPECT_TRUE(CheckLogBudget(options, 2).ok());
  for (uint64_t records : {0, 1, 19'999}) {
    options.log_budget_records = records;
    EXPECT_THAT(CheckLogBudget(options, 2).message(), HasSubstr("give at least 20000")) << records;
  }
  options.log_budget_records = 20'000;
  EXPECT_TRUE(CheckLogBudget(options, 2).ok());
}

TEST(NodeOptions, ListenNamesAnAddress) {
  std::string host;
  uint16_t port = 0;
  EXPECT_TRUE(ParseListen("127.0.0.1:7420", &host, &port).ok());
  EXPECT_THAT(ParseListen("myhost:7420", &host, &port).message(),
              HasSubstr("'myhost' is not a numeric IPv4 or IPv6 address"));
}

TEST(NodeOptions, TheRetainedLogIsLimited) {
  NodeOptions options;
  options.data_dir = "d";
  EXPECT_EQ(options.log_retained_bytes, 0u) << "a node without followers needs none";
  options.log_retained_bytes = uint64_t{1} << 40;
  EXPECT_TRUE(CheckOptions(options).ok());
  options.log_retained_bytes = UINT64_MAX;
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--log_retained_mb="));
}

TEST(NodeOptions, MemoryIsSplitWithinTheLimit) {
  NodeOptions options;
  for (uint64_t mb : {192, 256, 1024, 65536}) {
    for (uint32_t reactors : {1u, 2u, 4u}) {
      options.memory_limit_bytes = mb << 20;
      Result<MemorySplit> split = SplitMemory(options, ShapeOfNew(16, options.page_bytes, reactors));
      ASSERT_TRUE(split.ok()) << split.status().ToString();
      EXPECT_LE(split->process_bytes + split->connection_bytes + split->request_bytes + reactors * split->engine_bytes,
                options.memory_limit_bytes);
      EXPECT_GE(split->engine_bytes, 8u << 20);
    }
  }
  options.memory_limit_bytes = 32u << 20;
  EXPECT_THAT(SplitMemory(options, ShapeOfNew(16, options.page_bytes, 2)).status().message(),
              HasSubstr("--memory_limit_mb=32 is too small for 2 reactors"));
}

TEST(NodeOptions, TheLeastMemoryIsNamedAtOnce) {
  for (uint32_t page_bytes : {0u, 4096u, 65536u}) {
    for (uint32_t reactors : {1u, 2u, 64u}) {
      for (uint32_t connections : {1u, 20'000u, 4'000'000u}) {
        NodeOptions options;
        options.page_bytes = page_bytes;
        options.max_connections = connections;
        options.memory_limit_bytes = 1 << 20;
        const std::string refusal =
            SplitMemory(options, ShapeOfNew(16, options.page_bytes, reactors)).status().message();
        const size_t at = refusal.find("give at least ");
        ASSERT_NE(at, std::string::npos) << refusal;
        const uint64_t least = std::stoull(refusal.substr(at + 14));
        for (uint64_t mb : {uint64_t{0}, least / 2, least - 1}) {
          options.memory_limit_bytes = mb << 20;
          EXPECT_THAT(SplitMemory(options, ShapeOfNew(16, options.page_bytes, reactors)).status().message(),
                      HasSubstr(refusal.substr(at)));
        }
        options.memory_limit_bytes = least << 20;
        Status status = SplitMemory(options, ShapeOfNew(16, options.page_bytes, reactors)).TakeStatus();
        EXPECT_TRUE(status.ok()) << status.ToString();
      }
    }
  }
}

// The default limit has room for thousands of partitions, but not for any number.
TEST(NodeOptions, PartitionsTakeMemory) {
  NodeOptions options;
  EXPECT_TRUE(SplitMemory(options, ShapeOfNew(2048, options.page_bytes, 2)).ok());
  EXPECT_TRUE(SplitMemory(options, ShapeOfNew(8192, options.page_bytes, 2)).ok());
  const Status refused = SplitMemory(options, ShapeOfNew(65536, options.page_bytes, 2)).TakeStatus();
  EXPECT_EQ(refused.code(), Code::kInvalidArgument);
  EXPECT_THAT(refused.message(), HasSubstr("is too small for 2 reactors, 65536 partitions"));
}

TEST(NodeOptions, DescriptorsAreSplitWithinTheLimit) {
  NodeOptions options;
  for (uint64_t limit : {512u, 1024u, 4096u, 1u << 20}) {
    for (uint32_t reactors : {1u, 2u, 4u}) {
      Result<DescriptorSplit> split = SplitDescriptors(options, limit, ShapeOfNew(16, 0, reactors));
      ASSERT_TRUE(split.ok()) << split.status().ToString();
      EXPECT_LE(split->reserved + split->sockets, limit);
      EXPECT_LE(split->connections, options.max_connections);
      EXPECT_LE(split->connections, split->sockets);
      EXPECT_GT(split->connections, 0u);
    }
  }
  EXPECT_EQ(SplitDescriptors(options, 1u << 20, ShapeOfNew(16, 0, 2))->connections, options.max_connections);
  EXPECT_GT(SplitDescriptors(options, 1024, ShapeOfNew(16, 0, 2))->connections, 500u);
  EXPECT_TRUE(SplitDescriptors(options, 4096, ShapeOfNew(2048, 0, 2)).ok());
  EXPECT_THAT(SplitDescriptors(options, 1024, ShapeOfNew(4096, 0, 2)).status().message(),
              HasSubstr("raise RLIMIT_NOFILE"));
}

// Partitions that were created at run time may all be on one reactor.
TEST(NodeOptions, TheFullestReactorCounts) {
  StoreInfo store;
  store.ranges = 4096;
  store.page_bytes = 4096;
  for (uint32_t id = 0; id < 1000; ++id) store.partitions.push_back(store.InfoOf(4 * id, {1, id + 1}));
  const StoreShape skewed = ShapeOf(store, 4), even = ShapeOf(store, 3);
  EXPECT_EQ(skewed.partitions, 1000u);
  EXPECT_EQ(skewed.fullest, 1000u);
  EXPECT_EQ(even.fullest, 334u);
  NodeOptions options;
  options.memory_limit_bytes = 1 << 20;
  const std::string refusal = SplitMemory(options, skewed).status().message();
  options.memory_limit_bytes = std::stoull(refusal.substr(refusal.find("give at least ") + 14)) << 20;
  Result<MemorySplit> split = SplitMemory(options, skewed);
  ASSERT_TRUE(split.ok()) << split.status().ToString();
  EXPECT_GE(split->engine_bytes, Engine::MinMemoryBytes(4096, 1000, 4096));
}

// A node that has created all partitions for which it kept descriptors starts again, until there are few left.
TEST(NodeOptions, SparePartitionsLeaveDescriptors) {
  NodeOptions options;
  StoreShape shape{2, 4096, 4096, 1, 1};
  Result<DescriptorSplit> first = SplitDescriptors(options, 1024, shape);
  EXPECT_GT(first->spare_partitions, 50u);
  EXPECT_GT(first->connections, 400u);
  for (int start = 0; start < 100; ++start) {
    Result<DescriptorSplit> split = SplitDescriptors(options, 1024, shape);
    ASSERT_TRUE(split.ok()) << split.status().ToString();
    EXPECT_LE(split->reserved + split->sockets, 1024u);
    EXPECT_GT(split->connections, 0u);
    shape.partitions += split->spare_partitions * shape.reactors;
  }
  EXPECT_GT(shape.partitions, 500u);
  // There are no more than the ranges.
  EXPECT_EQ(SplitDescriptors(options, 1u << 20, ShapeOfNew(16, 0, 2))->reserved,
            SplitDescriptors(options, 4096, ShapeOfNew(16, 0, 2))->reserved);
}

TEST(NodeOptions, Listen) {
  std::string host;
  uint16_t port = 0;
  EXPECT_TRUE(ParseListen("127.0.0.1:7420", &host, &port).ok());
  EXPECT_EQ(host, "127.0.0.1");
  EXPECT_EQ(port, 7420);
  EXPECT_TRUE(ParseListen("[::1]:0", &host, &port).ok());
  EXPECT_EQ(host, "::1");
  for (const char* bad : {"", "7420", ":7420", "localhost:", "localhost:x", "localhost:70000", "localhost:12 "}) {
    EXPECT_FALSE(ParseListen(bad, &host, &port).ok()) << bad;
  }
}

}  // namespace
}  // namespace pando
