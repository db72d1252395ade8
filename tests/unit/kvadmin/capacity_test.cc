#include "tools/kvadmin/capacity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <set>

#include "src/topology/topology_store.h"
#include "tools/common/quantity.h"

namespace pando::admin {
namespace {

using testing::HasSubstr;

TEST(Quantity, ReadsSizesAsPeopleWriteThem) {
  const std::pair<const char*, double> known[] = {{"0", 0},      {"17", 17},    {"100e9", 100e9},
                                                  {"4T", 4e12},  {"64G", 64e9}, {"1.5K", 1500},
                                                  {"2M", 2e6},   {"3P", 3e15},  {"64Gi", 64.0 * (1u << 30)},
                                                  {"8Ki", 8192}, {"1e3K", 1e6}, {"0.5Ti", 549755813888.0}};
  for (const auto& [text, value] : known) EXPECT_EQ(tools::ParseQuantity(text), value) << text;
  for (const char* bad :
       {"", "G", "i", "4i", "-1", "-4G", "4 T", "4TB", "4t", "x", "0x10", "010", "1e999", "4TT", "nan"}) {
    EXPECT_EQ(tools::ParseQuantity(bad), std::nullopt) << bad;
  }
}

CapacityInputs Large() {
  CapacityInputs in;
  in.records = 100e9;
  in.value_bytes = 1000;
  in.reads_per_s = 100'000;
  in.writes_per_s = 10'000;
  in.node_disk_bytes = 4e12;
  in.node_memory_bytes = 64e9;
  return in;
}

CapacityPlan MustPlan(const CapacityInputs& in) {
  Result<CapacityPlan> plan = PlanCapacity(in);
  EXPECT_TRUE(plan.ok()) << plan.status().ToString();
  return plan.ok() ? *std::move(plan) : CapacityPlan();
}

void ExpectRefused(const CapacityInputs& in, const std::string& what) {
  const Result<CapacityPlan> plan = PlanCapacity(in);
  ASSERT_FALSE(plan.ok()) << what;
  EXPECT_EQ(plan.code(), Code::kInvalidArgument);
  EXPECT_THAT(plan.status().message(), HasSubstr(what));
}

TEST(Capacity, EachFigureHasAFormulaAndANameOfItsOwn) {
  const CapacityPlan plan = MustPlan(Large());
  std::set<std::string> names;
  for (const CapacityRow& row : plan.rows) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_FALSE(row.formula.empty() || row.numbers.empty()) << row.name;
    EXPECT_GT(row.value, 0) << row.name;
  }
  EXPECT_GT(names.size(), 25u);
}

// By hand, for 8-KiB pages: floor((8192 - 40 - 56 - 2 * 20) / (20 + 20 + 1000)) = 7 records fill a page, and 0.69 of
// them are there. With half of the bytes, they take one block; with all of them, leaves with more than 3.85 do.
TEST(Capacity, PagesAreAsByHand) {
  CapacityInputs in = Large();
  in.compression_ratio = 2;
  CapacityPlan plan = MustPlan(in);
  EXPECT_NEAR(plan.Row("records_per_leaf").value, 0.69 * 7, 1e-9);
  EXPECT_EQ(plan.Row("leaf_disk_bytes").value, 4096);
  // 0.69 * 8096 / (8 + 56 + 3) = 83.4 children for each inner page.
  EXPECT_NEAR(plan.Row("inner_bytes_per_record").value, 8192 / 4.83 / 82.4, 0.02);
  EXPECT_NEAR(plan.Row("tree_bytes_per_record").value, 4096 / 4.83 + 10.3, 0.1);
  EXPECT_NEAR(plan.Row("data_bytes").value, 100e9 * 3 * 858.3, 1e12);
  in.compression_ratio = 1;
  plan = MustPlan(in);
  EXPECT_NEAR(plan.Row("leaf_disk_bytes").value, 4096 * (7 * 1040 / 4000.0), 1);
}

TEST(Capacity, LargeValuesHaveBlocksOfTheirOwn) {
  CapacityInputs in = Large();
  in.records = 1e6;
  in.value_bytes = 10'000;
  const CapacityPlan plan = MustPlan(in);
  EXPECT_GT(plan.Row("tree_bytes_per_record").value, 3 * 4096);
  EXPECT_LT(plan.Row("tree_bytes_per_record").value, 3 * 4096 + 200);
}

TEST(Capacity, EveryLimitHoldsWithOneNodeLost) {
  const CapacityInputs in = Large();
  const CapacityPlan plan = MustPlan(in);
  EXPECT_LE(plan.Row("disk_bytes_per_node_after_loss").value, 0.85 * in.node_disk_bytes);
  EXPECT_LE(plan.Row("inner_bytes_per_node_after_loss").value, 0.75 * plan.Row("pool_bytes_per_node").value);
  EXPECT_LE(plan.Row("disk_bytes_per_second_per_node_after_loss").value, 0.7 * in.node_disk_bytes_per_s);
  EXPECT_LE(plan.Row("network_bytes_per_second_per_node_after_loss").value, 0.7 * in.node_network_bytes_per_s);
  EXPECT_GT(plan.Row("disk_bytes_per_node_after_loss").value, plan.Row("disk_bytes_per_node").value);
  // The fewest: with one less, something is missing, and the plan says what.
  CapacityInputs fewer = in;
  fewer.nodes = plan.nodes - 1;
  ExpectRefused(fewer,
                fmt::format("--nodes {} is not enough: {}. {} nodes suffice", fewer.nodes, plan.bound_by, plan.nodes));
  EXPECT_THAT(plan.bound_by, HasSubstr("--node-memory"));
  fewer.nodes = plan.nodes;
  EXPECT_EQ(MustPlan(fewer).nodes, plan.nodes);
}

// Whatever is scarce decides.
TEST(Capacity, TheScarceResourceIsNamed) {
  CapacityInputs in = Large();
  in.node_memory_bytes = 512e9;
  EXPECT_THAT(MustPlan(in).bound_by, HasSubstr("--node-disk "));
  in.node_disk_bytes = 100e12;
  in.writes_per_s = 1e6;
  EXPECT_THAT(MustPlan(in).bound_by, HasSubstr("--node-disk-bytes-per-s"));
  in = Large();
  in.records = 1e6;
  in.reads_per_s = 1e8;
  in.node_disk_bytes_per_s = 1e12;
  EXPECT_THAT(MustPlan(in).bound_by, HasSubstr("--node-network-bytes-per-s"));
  in = Large();
  in.records = 1e6;
  EXPECT_EQ(MustPlan(in).nodes, 3u);
  EXPECT_EQ(MustPlan(in).bound_by, "");
}

TEST(Capacity, PartitionsAreAPowerOfTwoThatTheTopologyCanHold) {
  CapacityInputs in = Large();
  in.records = 1e6;
  EXPECT_EQ(MustPlan(in).partitions, 32u);  // 8 masters for each of 3 nodes
  for (const double records : {1e6, 1e8, 1e9, 1e10, 1e11}) {
    in.records = records;
    const CapacityPlan plan = MustPlan(in);
    EXPECT_TRUE(std::has_single_bit(plan.partitions)) << records;
    EXPECT_LE(plan.partitions + plan.nodes + 2, kMaxTopologyKeys) << records;
    EXPECT_GE(plan.partitions, 8 * plan.nodes) << records;
    EXPECT_LE(plan.Row("partition_bytes").value, 16.0 * (1u << 30)) << records;
  }
  in.partitions = 1024;
  EXPECT_EQ(MustPlan(in).partitions, 1024u);
  EXPECT_THAT(MustPlan(in).notes, testing::Contains(HasSubstr("A partition has")));
}

TEST(Capacity, ZonesGetAsManyNodesEach) {
  CapacityInputs in = Large();
  for (const uint32_t zones : {2u, 3u, 5u, 7u}) {
    in.zones = zones;
    EXPECT_EQ(MustPlan(in).nodes % zones, 0u);
  }
  in.zones = 2;
  EXPECT_THAT(MustPlan(in).notes, testing::Contains(HasSubstr("3 replicas in 2 zones")));
}

TEST(Capacity, OneNodeAloneIsAPlanToo) {
  CapacityInputs in = Large();
  in.records = 1e6;
  in.replicas = in.nodes = 1;
  const CapacityPlan plan = MustPlan(in);
  EXPECT_THAT(plan.notes, testing::Contains(HasSubstr("loses its data")));
  EXPECT_EQ(plan.Row("disk_bytes_per_node").value, plan.Row("disk_bytes_per_node_after_loss").value);
  EXPECT_EQ(plan.Row("replicas_made_anew_seconds").value, 0);
}

TEST(Capacity, WhatIsImpossibleIsRefused) {
  const auto refuse = [](auto change, const std::string& what) {
    CapacityInputs in = Large();
    change(&in);
    ExpectRefused(in, what);
  };
  refuse([](CapacityInputs* in) { in->records = 0; }, "--records must be at least 1");
  refuse([](CapacityInputs* in) { in->key_bytes = 0; }, "--key-bytes 0 is not possible");
  refuse([](CapacityInputs* in) { in->key_bytes = 5000; }, "--key-bytes 5000 is not possible");
  refuse([](CapacityInputs* in) { in->value_bytes = 1e9; }, "--value-bytes");
  refuse([](CapacityInputs* in) { in->compression_ratio = 0.5; }, "--compression-ratio");
  refuse([](CapacityInputs* in) { in->replicas = 0; }, "--replicas must be from 1");
  refuse([](CapacityInputs* in) { in->nodes = 2; }, "--replicas 3 needs at least 3 nodes, and --nodes is 2");
  refuse([](CapacityInputs* in) { in->nodes = 100'000; }, "--nodes must be at most");
  refuse([](CapacityInputs* in) { in->nodes = 3, in->zones = 4; }, "--zones 4");
  refuse([](CapacityInputs* in) { in->partitions = 100; }, "not a power of two");
  refuse([](CapacityInputs* in) { in->partitions = 1u << 20; }, "of which a topology can hold the records");
  refuse([](CapacityInputs* in) { in->node_disk_bytes = 0; }, "--node-disk");
  refuse([](CapacityInputs* in) { in->node_network_bytes_per_s = 0; }, "must not be 0");
  refuse([](CapacityInputs* in) { in->reactors = 0; }, "--reactors");
  refuse([](CapacityInputs* in) { in->log_budget_bytes = 1e6; }, "--log-budget");
  // No number of nodes helps, because each of them lacks it.
  refuse([](CapacityInputs* in) { in->node_memory_bytes = 100e6; }, "no cluster of up to");
  refuse([](CapacityInputs* in) { in->node_memory_bytes = 100e6; }, "--node-memory");
  refuse([](CapacityInputs* in) { in->node_disk_bytes = 1e9; }, "--node-disk");
}

}  // namespace
}  // namespace pando::admin
