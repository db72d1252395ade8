// Partitions of a node that come and go while clients use it (NP1, NP2): requests for what is not here get
// a clear error and never a part of the answer, and nothing acknowledged is lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <map>
#include <set>

#include "gen-cpp/Admin.h"
#include "gen-cpp/Kv.h"
#include "gen-cpp/pando_constants.h"
#include "tests/sim/partitions_world.h"
#include "tests/support/seeds.h"

namespace pando {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// Of what every method answers, for a key in a partition that is not here and for ranges with it.
void ExpectAllRefused(World* world, size_t client, uint32_t missing) {
  const std::string key = World::KeyOf(missing), here = World::KeyOf(0);
  auto name = [&](const char* method) { return fmt::format("{} of client {}, partition {}", method, client, missing); };
  {
    api::Kv_get_args args;
    args.request.key = key;
    ExpectNotHere(world->Call<api::Kv_get_result>(client, "get", args)->error, name("get"));
    args.request.key = here;
    EXPECT_TRUE(world->Call<api::Kv_get_result>(client, "get", args)->success.record.found);
  }
  {
    api::Kv_put_args args;
    args.request.key = key;
    ExpectNotHere(world->Call<api::Kv_put_result>(client, "put", args)->error, name("put"));
  }
  {
    api::Kv_increment_args args;
    args.request.key = key;
    ExpectNotHere(world->Call<api::Kv_increment_result>(client, "increment", args)->error, name("increment"));
  }
  {
    api::Kv_multiGet_args args;
    args.request.keys = {here, key};
    auto reply = world->Call<api::Kv_multiGet_result>(client, "multiGet", args);
    EXPECT_EQ(reply->success.items.size(), 2u);
    EXPECT_TRUE(reply->success.items.at(0).record.found);
    ExpectNotHere(reply->success.items.at(1).error, name("multiGet"));
  }
  {
    api::Kv_writeBatch_args args;
    args.request.ops.resize(2);
    for (api::WriteOp& op : args.request.ops) op.kind = api::g_pando_constants.OP_PUT;
    args.request.ops[0].key = World::KeyOf(0, 1);
    args.request.ops[1].key = key;
    auto reply = world->Call<api::Kv_writeBatch_result>(client, "writeBatch", args);
    EXPECT_TRUE(reply->success.results.at(0).applied);
    ExpectNotHere(reply->success.results.at(1).error, name("writeBatch"));
  }
  {
    api::Kv_scan_args args;
    auto reply = world->Call<api::Kv_scan_result>(client, "scan", args);
    ExpectNotHere(reply->error, name("scan"));
    EXPECT_FALSE(reply->__isset.success);
    args.request.limit_rows = 1;
    ExpectNotHere(world->Call<api::Kv_scan_result>(client, "scan", args)->error, name("a short scan"));
  }
  {
    api::Kv_count_args args;
    ExpectNotHere(world->Call<api::Kv_count_result>(client, "count", args)->error, name("count"));
  }
  {
    api::Kv_aggregate_args args;
    ExpectNotHere(world->Call<api::Kv_aggregate_result>(client, "aggregate", args)->error, name("aggregate"));
  }
  {
    api::Kv_splitRange_args args;
    args.request.parts = 2;
    ExpectNotHere(world->Call<api::Kv_splitRange_result>(client, "splitRange", args)->error, name("splitRange"));
  }
  {
    api::Kv_deleteRange_args args;
    ExpectNotHere(world->Call<api::Kv_deleteRange_result>(client, "deleteRange", args)->error, name("deleteRange"));
  }
  {
    api::Kv_watch_args args;
    args.request.wait_ms = 1000;
    ExpectNotHere(world->Call<api::Kv_watch_result>(client, "watch", args)->error, name("watch"));
  }
  {
    // A snapshot is one of what is here.
    api::Kv_openSnapshot_args open;
    auto opened = world->Call<api::Kv_openSnapshot_result>(client, "openSnapshot", open);
    EXPECT_TRUE(opened->__isset.success) << opened->error.message;
    api::Kv_scan_args scan;
    scan.request.snapshot = opened->success.snapshot;
    ExpectNotHere(world->Call<api::Kv_scan_result>(client, "scan", scan)->error, name("scan of a snapshot"));
    api::Admin_describeSnapshot_args describe;
    describe.request.snapshot = opened->success.snapshot;
    describe.request.partition = static_cast<int32_t>(missing);
    ExpectNotHere(world->Call<api::Admin_describeSnapshot_result>(client, "describeSnapshot", describe)->error,
                  name("describeSnapshot"));
    describe.request.partition = 0;
    auto described = world->Call<api::Admin_describeSnapshot_result>(client, "describeSnapshot", describe);
    EXPECT_EQ(described->success.partition_uuid, world->partitions().store().Find(0)->uuid.ToString());
    EXPECT_NE(described->success.chain, 0);
    api::Kv_renewSnapshot_args renew;
    renew.request.snapshot = opened->success.snapshot;
    EXPECT_TRUE(world->Call<api::Kv_renewSnapshot_result>(client, "renewSnapshot", renew)->__isset.success);
    api::Kv_releaseSnapshot_args release;
    release.request.snapshot = opened->success.snapshot;
    EXPECT_TRUE(world->Call<api::Kv_releaseSnapshot_result>(client, "releaseSnapshot", release)->success.existed);
  }
}

std::vector<std::string> ScanAll(World* world, size_t client) {
  api::Kv_scan_args args;
  auto reply = world->Call<api::Kv_scan_result>(client, "scan", args);
  EXPECT_TRUE(reply->__isset.success) << reply->error.message;
  std::vector<std::string> keys;
  for (const api::Row& row : reply->success.rows) keys.push_back(row.key);
  return keys;
}

void PutAll(World* world) {
  for (uint32_t id = 0; id < kRanges; ++id) {
    api::Kv_put_args args;
    args.request.key = World::KeyOf(id);
    args.request.value = "value";
    EXPECT_TRUE(world->Call<api::Kv_put_result>(0, "put", args)->success.applied);
  }
}

TEST(Partitions, RequestsForWhatIsNotHereAreRefused) {
  World world(1);
  PutAll(&world);
  for (const uint32_t id : {2u, 5u}) EXPECT_OK(world.OnNode(world.partitions().Drop(id)));
  for (int start = 0; start < 2; ++start) {
    for (size_t client = 0; client < world.clients.size(); ++client) {
      for (const uint32_t id : {2u, 5u}) ExpectAllRefused(&world, client, id);
    }
    world.Stop();
    world.Start();
  }
  EXPECT_EQ(world.OnNode(world.partitions().Drop(2)).code(), Code::kUnavailable);
  EXPECT_OK(world.OnNode(world.partitions().Create(2)).status());
  ExpectAllRefused(&world, 0, 5);
  EXPECT_OK(world.OnNode(world.partitions().Create(5)).status());
  EXPECT_EQ(world.OnNode(world.partitions().Create(5)).code(), Code::kAlreadyExists);
  for (size_t client = 0; client < world.clients.size(); ++client) {
    const std::vector<std::string> keys = ScanAll(&world, client);
    EXPECT_EQ(keys.size(), kRanges - 2 + 1) << "six keys, and the one of writeBatch";
    api::Kv_get_args args;
    args.request.key = World::KeyOf(5);
    auto reply = world.Call<api::Kv_get_result>(client, "get", args);
    EXPECT_TRUE(reply->__isset.success && !reply->success.record.found);
  }
  PutAll(&world);
  EXPECT_EQ(ScanAll(&world, 1).size(), kRanges + 1u);
}

// A watcher that waits when its partition goes learns it, and whoever comes back has to start anew.
TEST(Partitions, WatchersLearnOfADrop) {
  World world(2);
  PutAll(&world);
  api::Kv_watch_args now;
  auto position = world.Call<api::Kv_watch_result>(0, "watch", now);
  struct Watch {
    static Task<void> Run(RpcClient* client, api::Kv_watch_args* args, api::Kv_watch_result* reply, bool* over) {
      Status status = co_await client->Call("watch", args, reply, kCallNs);
      EXPECT_OK(status);
      *over = true;
    }
  };
  api::Kv_watch_args args;
  args.request.position = position->success.position;
  args.request.wait_ms = 8000;
  args.context.budget_ms = 9000;
  api::Kv_watch_result reply;
  bool over = false;
  TaskGroup tasks;
  tasks.Spawn(Watch::Run(world.clients[1].get(), &args, &reply, &over));
  world.kernel.RunFor(200 * kMillisecond);
  EXPECT_FALSE(over);
  EXPECT_OK(world.OnNode(world.partitions().Drop(3)));
  world.kernel.RunFor(kSecond);
  EXPECT_TRUE(over);
  ExpectNotHere(reply.error, "watch");
  EXPECT_OK(world.OnNode(world.partitions().Create(3)).status());
  api::Kv_watch_args again;
  again.request.position = position->success.position;
  auto gone = world.Call<api::Kv_watch_result>(0, "watch", again);
  EXPECT_THAT(gone->error.message, HasSubstr("partition 3 no longer keeps the changes"));
}

// -- installing

// Reads a snapshot of another node over the network, as a node that installs does.
class RemotePages final : public SnapshotPages {
 public:
  RemotePages(Reactor& reactor, std::string snapshot, uint32_t partition)
      : client_(reactor), snapshot_(std::move(snapshot)), partition_(partition) {}
  Task<Status> Connect(std::string host, uint16_t port) { return client_.Connect(std::move(host), port, kSecond); }
  Task<void> Close() { return client_.Close(); }
  Task<Result<InstallSource>> Describe(uint32_t ranges, Uuid uuid) {
    api::Admin_describeSnapshot_args args;
    api::Admin_describeSnapshot_result reply;
    args.request.snapshot = snapshot_;
    args.request.partition = static_cast<int32_t>(partition_);
    CO_RETURN_IF_ERROR(co_await client_.Call("describeSnapshot", &args, &reply, kCallNs));
    const api::PartitionSnapshot& from = reply.success;
    InstallSource source;
    source.root.partition = uuid;
    EXPECT_EQ(from.partition_uuid, uuid.ToString());
    source.ranges = ranges;
    source.page_bytes = static_cast<uint32_t>(from.page_bytes);
    source.seal_bytes = static_cast<uint32_t>(from.seal_bytes);
    source.namespaced = from.namespaced;
    SnapshotRoot& root = source.root;
    root.generation = static_cast<Generation>(from.generation);
    root.epoch = static_cast<Epoch>(from.epoch);
    root.lsn = static_cast<Lsn>(from.lsn);
    root.chain = static_cast<uint64_t>(from.chain);
    root.last_version = static_cast<Version>(from.last_version);
    root.next_page_id = static_cast<uint64_t>(from.next_page_id);
    root.file_blocks = static_cast<uint64_t>(from.file_blocks);
    root.root_level = static_cast<uint8_t>(from.root_level);
    EXPECT_EQ(from.root.size(), sizeof(root.root));
    std::memcpy(static_cast<void*>(&root.root), from.root.data(), sizeof(root.root));
    co_return source;
  }
  Task<Result<PageBatch>> Next() override {
    api::Admin_readPages_args args;
    api::Admin_readPages_result reply;
    args.request.snapshot = snapshot_;
    args.request.partition = static_cast<int32_t>(partition_);
    args.request.cursor = cursor_;
    CO_RETURN_IF_ERROR(co_await client_.Call("readPages", &args, &reply, kCallNs));
    if (!reply.__isset.success) co_return Error(Code::kUnavailable, "{}", reply.error.message);
    PageBatch batch;
    for (api::PageImage& page : reply.success.pages) {
      batch.Add({Extent{static_cast<uint64_t>(page.location)}, static_cast<uint64_t>(page.checksum), page.bytes});
    }
    cursor_ = reply.success.cursor;
    batch.exhausted = cursor_.empty();
    co_return batch;
  }
  void Cancel() override {}  // a call does not wait longer than kCallNs

 private:
  RpcClient client_;
  const std::string snapshot_;
  const uint32_t partition_;
  std::string cursor_;
};

Task<void> InstallFrom(World* from, World* to, std::string snapshot, uint32_t id) {
  RemotePages pages(*to->machine->reactor(), std::move(snapshot), id);
  EXPECT_OK(co_await pages.Connect(from->machine->host(), from->options.port));
  Result<InstallSource> source = co_await pages.Describe(kRanges, from->partitions().store().Find(id)->uuid);
  EXPECT_OK(source.status());
  InstallSource other = *source;
  other.page_bytes *= 2;
  EXPECT_EQ((co_await to->partitions().Install(id, other, &pages)).code(), Code::kInvalidArgument);
  EXPECT_EQ((co_await to->partitions().Install(0, *source, &pages)).code(), Code::kAlreadyExists);
  Result<PartitionInfo> installed = co_await to->partitions().Install(id, *source, &pages);
  EXPECT_OK(installed.status());
  co_await pages.Close();
}

TEST(Partitions, OneIsInstalledFromAnotherNode) {
  SimKernel kernel(3);
  World from(3, &kernel, 1), to(3, &kernel, 2);
  for (int i = 0; i < 300; ++i) {
    api::Kv_put_args args;
    args.request.key = fmt::format("key-{}", i);
    args.request.value = std::string(i % 40 == 0 ? 20'000 : 300, 'v');
    EXPECT_TRUE(from.Call<api::Kv_put_result>(0, "put", args)->success.applied);
  }
  auto opened = from.Call<api::Kv_openSnapshot_result>(0, "openSnapshot", api::Kv_openSnapshot_args());
  // The same partitions of another node, which writes into one of them.
  for (uint32_t id = 0; id < kRanges; ++id) {
    EXPECT_OK(to.OnNode(to.partitions().Drop(id)));
    if (id == 0) EXPECT_OK(to.OnNode(to.partitions().Create(0)).status());
  }
  EXPECT_OK(to.OnNode(to.partitions().Drop(0)));
  EXPECT_OK(to.OnNode(to.partitions().Create(0)).status());
  for (uint32_t id = 1; id < kRanges; ++id) to.OnNode(InstallFrom(&from, &to, opened->success.snapshot, id));
  for (int start = 0; start < 2; ++start) {
    for (int i = 0; i < 300; ++i) {
      api::Kv_get_args args;
      args.request.key = fmt::format("key-{}", i);
      auto reply = to.Call<api::Kv_get_result>(static_cast<size_t>(i) % 6, "get", args);
      EXPECT_EQ(reply->success.record.found, PartitionOf(args.request.key) != 0) << args.request.key;
    }
    EXPECT_FALSE(ScanAll(&to, 0).empty());
    to.Stop();
    to.Start();
  }
}

// Pages that must not be asked for.
class UnwantedPages final : public SnapshotPages {
 public:
  Task<Result<PageBatch>> Next() override {
    ADD_FAILURE() << "pages are sent for nothing";
    co_return Error(Code::kUnavailable, "unwanted");
  }
  void Cancel() override {}
};

Task<void> InstallWithoutRoom(World* world) {
  NodePartitions& partitions = world->partitions();
  UnwantedPages pages;
  const InstallSource source = SourceFor(world);
  EXPECT_EQ((co_await partitions.Install(3, source, &pages)).code(), Code::kOverloaded);
  EXPECT_EQ((co_await partitions.Create(3)).code(), Code::kOverloaded);
  EXPECT_EQ((co_await partitions.Install(2, source, &pages)).code(), Code::kAlreadyExists);
  EXPECT_EQ((co_await partitions.Install(kRanges, source, &pages)).code(), Code::kInvalidArgument);
  EXPECT_EQ(partitions.store().FindDropped(source.root.partition), nullptr);
}

TEST(Partitions, NoPagesAreSentIfThereIsNoRoom) {
  World world(5);
  EXPECT_OK(world.OnNode(world.partitions().Drop(3)));
  world.Stop();
  world.options.engine.spare_partitions = 0;
  world.Start();
  world.OnNode(InstallWithoutRoom(&world));
  EXPECT_EQ(world.partitions().store().Find(3), nullptr);
  EXPECT_FALSE(world.machine->disk().Exists("/data/partition-00003/data"));
}

// -- load

struct Lives {
  std::array<int, kRanges> life{};  // odd: it is being changed or is not here
};

struct Load {
  Load(World* w, uint64_t seed) : world(w), random(seed) {}
  World* world;
  Lives lives;
  SimRandom random;
  bool over = false;
  int served = 0, refused = 0, wrong = 0;
  std::map<std::string, int> acked;  // the life of its partition in which a key was put

  void Note(bool ok, const api::KvError& error, const char* what) {
    if (ok) {
      ++served;
      return;
    }
    ++refused;
    const bool expected = error.message.find("is not on this node") != std::string::npos ||
                          error.message.find("snapshot") != std::string::npos ||
                          error.message.find("no longer keeps the changes") != std::string::npos ||
                          error.message.find("stopped before the write was acknowledged") != std::string::npos;
    if (!expected) {
      ++wrong;
      ADD_FAILURE() << what << ": " << error.message;
    }
  }
};

Task<void> PutOn(Load* load, RpcClient* client, int writer) {
  for (int i = 0; !load->over; ++i) {
    api::Kv_put_args args;
    api::Kv_put_result reply;
    args.request.key = fmt::format("w{}-{}", writer, i % 400);
    args.request.value = std::string(load->random.Below(500), 'v');
    const uint32_t id = PartitionOf(args.request.key);
    const int life = load->lives.life[id];
    EXPECT_OK(co_await client->Call("put", &args, &reply, kCallNs));
    load->Note(reply.__isset.success, reply.error, "put");
    if (reply.__isset.success && life % 2 == 0 && load->lives.life[id] == life) load->acked[args.request.key] = life;
  }
}
Task<void> GetOn(Load* load, RpcClient* client) {
  while (!load->over) {
    api::Kv_get_args args;
    api::Kv_get_result reply;
    args.request.key = fmt::format("w{}-{}", load->random.Below(2), load->random.Below(400));
    EXPECT_OK(co_await client->Call("get", &args, &reply, kCallNs));
    load->Note(reply.__isset.success, reply.error, "get");
    api::Kv_multiGet_args many;
    api::Kv_multiGet_result items;
    for (int i = 0; i < 20; ++i) many.request.keys.push_back(fmt::format("w0-{}", load->random.Below(400)));
    EXPECT_OK(co_await client->Call("multiGet", &many, &items, kCallNs));
    for (const api::MultiGetItem& item : items.success.items) load->Note(!item.__isset.error, item.error, "multiGet");
  }
}
// A scan never answers with a part of the keys.
Task<void> ScanOn(Load* load, RpcClient* client) {
  while (!load->over) {
    const std::map<std::string, int> before = load->acked;
    const Lives lives = load->lives;
    api::Kv_scan_args args;
    api::Kv_scan_result reply;
    args.request.keys_only = true;
    EXPECT_OK(co_await client->Call("scan", &args, &reply, kCallNs));
    load->Note(reply.__isset.success, reply.error, "scan");
    if (reply.__isset.success && reply.success.cursor.empty()) {
      std::set<std::string> seen;
      for (const api::Row& row : reply.success.rows) seen.insert(row.key);
      for (const auto& [key, life] : before) {
        const uint32_t id = PartitionOf(key);
        if (life != lives.life[id] || life != load->lives.life[id]) continue;
        EXPECT_TRUE(seen.contains(key)) << key << " is missing in a scan that succeeded";
      }
    }
    api::Kv_count_args count;
    api::Kv_count_result counted;
    EXPECT_OK(co_await client->Call("count", &count, &counted, kCallNs));
    load->Note(counted.__isset.success, counted.error, "count");
    co_await Sleep(*load->world->client_reactor, 3 * kMillisecond);
  }
}
Task<void> SnapshotOn(Load* load, RpcClient* client) {
  while (!load->over) {
    api::Kv_openSnapshot_args args;
    api::Kv_openSnapshot_result opened;
    EXPECT_OK(co_await client->Call("openSnapshot", &args, &opened, kCallNs));
    load->Note(opened.__isset.success, opened.error, "openSnapshot");
    if (!opened.__isset.success) continue;
    api::Kv_scan_args scan;
    api::Kv_scan_result rows;
    scan.request.snapshot = opened.success.snapshot;
    scan.request.limit_rows = 50;
    EXPECT_OK(co_await client->Call("scan", &scan, &rows, kCallNs));
    load->Note(rows.__isset.success, rows.error, "scan of a snapshot");
    api::Kv_renewSnapshot_args renew;
    api::Kv_renewSnapshot_result renewed;
    renew.request.snapshot = opened.success.snapshot;
    EXPECT_OK(co_await client->Call("renewSnapshot", &renew, &renewed, kCallNs));
    load->Note(renewed.__isset.success, renewed.error, "renewSnapshot");
    api::Kv_releaseSnapshot_args release;
    api::Kv_releaseSnapshot_result released;
    release.request.snapshot = opened.success.snapshot;
    EXPECT_OK(co_await client->Call("releaseSnapshot", &release, &released, kCallNs));
  }
}
Task<void> WatchOn(Load* load, RpcClient* client) {
  std::string position;
  while (!load->over) {
    api::Kv_watch_args args;
    api::Kv_watch_result reply;
    args.request.position = position;
    args.request.wait_ms = 50;
    EXPECT_OK(co_await client->Call("watch", &args, &reply, kCallNs));
    load->Note(reply.__isset.success, reply.error, "watch");
    position = reply.__isset.success ? reply.success.position : "";
    if (!reply.__isset.success) co_await Sleep(*load->world->client_reactor, 5 * kMillisecond);
  }
}

// On the node: partitions come and go, two of each reactor.
Task<void> Change(Load* load, int changes) {
  Reactor& reactor = *load->world->machine->reactor();
  for (int i = 0; i < changes; ++i) {
    co_await Sleep(reactor, static_cast<Nanos>(load->random.Below(10)) * kMillisecond);
    const auto id = static_cast<uint32_t>(load->random.Below(4));
    NodePartitions& partitions = load->world->partitions();
    int& life = load->lives.life[id];
    if (partitions.store().Find(id) != nullptr) {
      ++life;
      EXPECT_OK(co_await partitions.Drop(id));
    } else {
      EXPECT_OK((co_await partitions.Create(id)).status());
      ++life;
    }
  }
  for (uint32_t id = 0; id < 4; ++id) {
    if (load->world->partitions().store().Find(id) != nullptr) continue;
    EXPECT_OK((co_await load->world->partitions().Create(id)).status());
    ++load->lives.life[id];
  }
}

Task<void> UntilOver(Load* load, TaskGroup* tasks) {
  load->over = true;
  co_await tasks->Drain();
}

void ExpectAcked(World* world, const Load& load) {
  const std::vector<std::string> rows = ScanAll(world, 0);
  size_t expected = 0;
  for (const auto& [key, life] : load.acked) {
    if (life != load.lives.life[PartitionOf(key)]) continue;
    ++expected;
    api::Kv_get_args args;
    args.request.key = key;
    EXPECT_TRUE(world->Call<api::Kv_get_result>(expected % 6, "get", args)->success.record.found) << key;
  }
  EXPECT_GT(expected, 20u);
}

TEST(Partitions, ComeAndGoUnderLoad) {
  for (const uint64_t seed : Seeds(8)) {
    SCOPED_TRACE(Replay(seed));
    World world(seed);
    Load load(&world, seed);
    TaskGroup tasks;
    tasks.Spawn(PutOn(&load, world.clients[0].get(), 0));
    tasks.Spawn(PutOn(&load, world.clients[1].get(), 1));
    tasks.Spawn(GetOn(&load, world.clients[2].get()));
    tasks.Spawn(ScanOn(&load, world.clients[3].get()));
    tasks.Spawn(SnapshotOn(&load, world.clients[4].get()));
    tasks.Spawn(WatchOn(&load, world.clients[5].get()));
    world.OnNode(Change(&load, 30));
    world.kernel.RunTask(*world.client_reactor, UntilOver(&load, &tasks));
    EXPECT_GT(load.served, 100);
    EXPECT_GT(load.refused, 10);
    ExpectAcked(&world, load);
    world.Stop();
    world.Start();
    ExpectAcked(&world, load);
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace pando
