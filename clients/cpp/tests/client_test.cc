// Tests of the client against a scripted server: what lies, what dies, and what is slow.
#include <gtest/gtest.h>
#include <pando/client.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <ranges>

#include "fake_server.h"
#include "pando_constants.h"
#include "pool.h"
#include "script.h"

namespace pando::client::testing {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

static_assert(std::ranges::input_range<Scan> && std::ranges::input_range<Watch>);

// -- what needs no server
// ----------------------------------------------------------------------------------------------

TEST(Constants, AreThoseOfTheInterface) {
  const api::pandoConstants& c = api::g_pando_constants;
  const std::pair<Code, std::int32_t> codes[] = {{Code::kBadRequest, c.BAD_REQUEST},
                                                 {Code::kTooLarge, c.TOO_LARGE},
                                                 {Code::kUnauthenticated, c.UNAUTHENTICATED},
                                                 {Code::kDenied, c.DENIED},
                                                 {Code::kNotMaster, c.NOT_MASTER},
                                                 {Code::kStaleMap, c.STALE_MAP},
                                                 {Code::kMoving, c.MOVING},
                                                 {Code::kOverloaded, c.OVERLOADED},
                                                 {Code::kDeadline, c.DEADLINE},
                                                 {Code::kUnavailable, c.UNAVAILABLE},
                                                 {Code::kTooStale, c.TOO_STALE},
                                                 {Code::kSnapshotGone, c.SNAPSHOT_GONE},
                                                 {Code::kBadCursor, c.BAD_CURSOR},
                                                 {Code::kTokenMismatch, c.TOKEN_MISMATCH},
                                                 {Code::kDiskFull, c.DISK_FULL},
                                                 {Code::kCorrupt, c.CORRUPT},
                                                 {Code::kInternal, c.INTERNAL},
                                                 {Code::kQuotaExceeded, c.QUOTA_EXCEEDED},
                                                 {Code::kCancelled, c.CANCELLED},
                                                 {Code::kFeedGone, c.FEED_GONE},
                                                 {Code::kSessionLost, c.SESSION_LOST}};
  for (const auto& [ours, theirs] : codes) EXPECT_EQ(static_cast<std::int32_t>(ours), theirs) << name_of(ours);
  EXPECT_EQ(static_cast<std::int32_t>(WriteLevel::kOne), c.LEVEL_ONE);
  EXPECT_EQ(static_cast<std::int32_t>(WriteLevel::kQuorum), c.LEVEL_QUORUM);
  EXPECT_EQ(static_cast<std::int32_t>(WriteLevel::kAll), c.LEVEL_ALL);
  EXPECT_EQ(static_cast<std::int32_t>(ReadLevel::kLinearizable), c.LEVEL_LINEARIZABLE);
  EXPECT_EQ(static_cast<std::int32_t>(ReadLevel::kBounded), c.LEVEL_BOUNDED);
  EXPECT_EQ(static_cast<std::int32_t>(ReadLevel::kSession), c.LEVEL_SESSION);
  EXPECT_EQ(static_cast<std::int32_t>(Expiry::Mode::kAfter), c.TTL_SET);
  EXPECT_EQ(static_cast<std::int32_t>(Expiry::Mode::kNever), c.TTL_CLEAR);
  EXPECT_EQ(static_cast<std::int32_t>(Expiry::Mode::kAt), c.TTL_SET_ABSOLUTE);
  EXPECT_EQ(static_cast<std::int32_t>(Batch::Kind::kPut), c.OP_PUT);
  EXPECT_EQ(static_cast<std::int32_t>(Batch::Kind::kRemove), c.OP_REMOVE);
  EXPECT_EQ(static_cast<std::int32_t>(Batch::Kind::kIncrement), c.OP_INCREMENT);
  EXPECT_EQ(static_cast<std::int32_t>(Batch::Kind::kTouch), c.OP_TOUCH);
}

TEST(Addresses, AreParsed) {
  EXPECT_EQ(detail::parse_address("db.example:7450").host, "db.example");
  EXPECT_EQ(detail::parse_address("[::1]:7450").host, "::1");
  EXPECT_EQ(detail::parse_address("[::1]:7450").port, "7450");
  for (const char* bad : {"", "host", "host:", ":7450", "::1:7450", "host:port", "host:123456"}) {
    EXPECT_THROW(detail::parse_address(bad), std::invalid_argument) << bad;
  }
  EXPECT_THROW(Client({}), std::invalid_argument);
  EXPECT_THROW(Client({"nonsense"}), std::invalid_argument);
}

TEST(Addresses, OneThatFailedIsAvoidedForASecond) {
  using detail::parse_address;
  detail::AddressBook book({parse_address("a:1"), parse_address("b:1"), parse_address("c:1")}, 1);
  const Clock::time_point now = Clock::now();
  EXPECT_EQ(book.choose(now), 1u);
  book.failed(1, now);
  EXPECT_EQ(book.choose(now), 2u);
  EXPECT_EQ(book.choose(now + 2s), 2u) << "it stays with what works";
  book.failed(2, now + 100ms);
  EXPECT_EQ(book.choose(now + 100ms), 0u);
  book.failed(0, now + 200ms);
  EXPECT_EQ(book.choose(now + 300ms), 1u) << "if all have failed, the one that failed first";
}

TEST(Errors, HaveNamesAndAdvice) {
  const Error error({.code = static_cast<Code>(99), .message = "new"});
  EXPECT_EQ(error.name(), "CODE_99");
  EXPECT_EQ(error.number(), 99);
  EXPECT_NE(std::string(error.what()).find(error.advice()), std::string::npos);
}

// -- connections -----------------------------------------------------------------------------------------------------

TEST(Connections, SayHelloAndSendTheBudget) {
  std::promise<api::HelloRequest> hello_of;
  FakeServer server([&](const Request& request) -> std::optional<Answer> {
    if (request.method != "hello") return answer_get(request);
    hello_of.set_value(request.as<api::HelloRequest>());
    return std::nullopt;
  });
  Client client = make_client(server, {.client_name = "unit"});
  const std::optional<Record> record = client.get("k", {.timeout = 3s});
  ASSERT_TRUE(record);
  EXPECT_EQ(record->value, "x");
  EXPECT_EQ(record->version, 7);
  EXPECT_FALSE(record->expires_at);
  EXPECT_EQ(hello_of.get_future().get().client_name, "unit");
  const Request get = server.requests().at(0);
  EXPECT_EQ(get.as<api::GetRequest>().key, "k");
  EXPECT_GT(get.context.budget_ms, 1000);
  EXPECT_LE(get.context.budget_ms, 3000);
  client.get("k");
  EXPECT_EQ(server.connections(), 1) << "the connection is used again";
}

// A reply that makes no sense costs its connection, and the read is made again on another one.
struct Lie {
  std::string name;
  Script::Step tell;
};
class Lies : public ::testing::TestWithParam<Lie> {};

TEST_P(Lies, CostTheirConnection) {
  FakeServer server(scripted({GetParam().tell, answer_get}));
  Client client = make_client(server);
  EXPECT_EQ(client.get("k")->value, "x");
  EXPECT_EQ(server.connections(), 2);

  FakeServer liar(scripted({GetParam().tell}));
  Client believer = make_client(liar, {.timeout = 200ms});
  const auto read = thrown<DeadlineError>([&] { believer.get("k"); });
  EXPECT_EQ(read.applied(), Applied::kNo);
  ASSERT_TRUE(read.cause());
  EXPECT_EQ(read.cause()->code, Code::kTransport) << read.what();
  const auto write = thrown<DeadlineError>([&] { believer.put("k", "v"); });
  // On a machine that is busy, the time may be over before it was sent.
  EXPECT_TRUE(write.applied() == Applied::kUnknown || liar.requests("put").empty()) << write.what();
}

std::optional<Answer> other_sequence(const Request& request) {
  Request other = request;
  ++other.sequence;
  return answer_get(other);
}

std::optional<Answer> other_method(const Request& request) {
  Request other = request;
  other.method = "count";
  return answer_get(other);
}

std::optional<Answer> cut_reply(const Request& request) {
  std::string bytes = answer_get(request)->bytes;
  return Answer{bytes.substr(0, bytes.size() - 5), true};
}

std::optional<Answer> giant_length(const Request&) { return Answer{"\x7f\xff\xff\xff"}; }
std::optional<Answer> no_length(const Request&) { return Answer{std::string(4, '\0')}; }
std::optional<Answer> garbage(const Request&) { return Answer{frame("no thrift at all")}; }
std::optional<Answer> http(const Request&) { return Answer{"HTTP/1.1 400 Bad Request\r\n\r\n"}; }
std::optional<Answer> two_replies(const Request& request) {
  return Answer{answer_get(request)->bytes + answer_get(request)->bytes};
}
std::optional<Answer> bytes_after_the_end(const Request& request) {
  return Answer{frame(answer_get(request)->bytes.substr(4) + "more")};
}
std::optional<Answer> no_result(const Request& request) {
  const api::Condition empty;
  return Answer{frame(message(request.method, request.sequence, 9, [&](Protocol* out) { empty.write(out); }))};
}
// A list of two thousand million rows, in a frame of a few bytes. (A client must not make room for them.)
std::optional<Answer> giant_list(const Request& request) {
  using namespace apache::thrift::protocol;
  return Answer{frame(message(request.method, request.sequence, 0, [](Protocol* out) {
    out->writeFieldBegin("record", T_STRUCT, 1);
    out->writeFieldBegin("unknown", T_LIST, 9);
    out->writeListBegin(T_STRUCT, 2'000'000'000);
  }))};
}

INSTANTIATE_TEST_SUITE_P(Of, Lies,
                         ::testing::Values(Lie{"sequence", other_sequence}, Lie{"method", other_method},
                                           Lie{"cut", cut_reply}, Lie{"length", giant_length}, Lie{"empty", no_length},
                                           Lie{"garbage", garbage}, Lie{"http", http}, Lie{"two", two_replies},
                                           Lie{"tail", bytes_after_the_end}, Lie{"nothing", no_result},
                                           Lie{"list", giant_list}),
                         [](const auto& info) { return info.param.name; });

TEST(Connections, AServerThatTricklesDoesNotHoldACall) {
  FakeServer server(scripted({[](const Request& request) {
    Answer answer = *answer_get(request);
    answer.pause_after_each_byte = 20ms;
    return answer;
  }}));
  Client client = make_client(server);
  const auto began = Clock::now();
  EXPECT_THROW(client.get("k", {.timeout = 200ms}), DeadlineError);
  EXPECT_LT(Clock::now() - began, 1s);
}

TEST(Connections, OneThatWasClosedWhileIdleIsReplaced) {
  FakeServer server(scripted({[](const Request& request) {
    Answer answer = *answer_write(request);
    answer.close = true;
    return answer;
  }}));
  Client client = make_client(server);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(client.put("k", "v").applied);
  EXPECT_EQ(server.requests("put").size(), 3u);
}

TEST(Connections, AreNoMoreThanThePoolMayHave) {
  FakeServer server(scripted({answer_get}));
  Client client = make_client(server, {.pool_size = 1});
  std::vector<std::future<void>> threads;
  for (int i = 0; i < 4; ++i) threads.push_back(std::async(std::launch::async, [&] { client.get("k"); }));
  for (auto& thread : threads) thread.get();
  EXPECT_EQ(server.connections(), 1);
  EXPECT_EQ(server.requests().size(), 4u);
}

TEST(Connections, TheNextAddressIsTried) {
  std::optional<FakeServer> gone(std::in_place, scripted({cut}));
  const std::string nobody = gone->address();
  gone.reset();
  FakeServer server(scripted({answer_get}));
  for (int i = 0; i < 8; ++i) {  // whichever address it begins with
    Client client({nobody, server.address()});
    EXPECT_EQ(client.get("k")->value, "x");
  }
}

TEST(Connections, ARequestBeyondTheFrameLimitIsNotSent) {
  FakeServer server(scripted({answer_write}));
  Client client = make_client(server);
  const auto error = thrown<BadRequestError>([&] { client.put("k", std::string(5 << 20, 'x')); });
  EXPECT_EQ(error.code(), Code::kTooLarge);
  EXPECT_EQ(error.applied(), Applied::kNo);
  EXPECT_TRUE(server.requests().empty());
  EXPECT_TRUE(client.put("k", "v").applied);
  EXPECT_EQ(server.connections(), 1);
}

Script::Step answer_exception(int type) {
  return [type](const Request& request) {
    using namespace apache::thrift::protocol;
    using E = apache::thrift::TApplicationException;
    const auto memory = std::make_shared<Memory>();
    Protocol out(memory);
    out.writeMessageBegin(request.method, T_EXCEPTION, request.sequence);
    E(static_cast<E::TApplicationExceptionType>(type), "told to").write(&out);
    out.writeMessageEnd();
    return Answer{frame(memory->getBufferAsString())};
  };
}

TEST(Exceptions, ThatComeBeforeAnythingIsDoneAreBadRequests) {
  for (const int type : {1, 2, 7, 8, 9, 10}) {
    FakeServer server(scripted({answer_exception(type), answer_write}));
    Client client = make_client(server);
    const auto error = thrown<BadRequestError>([&] { client.touch("k", Expiry::never()); });
    EXPECT_EQ(error.applied(), Applied::kNo) << type;
    EXPECT_EQ(error.tries(), 1) << type;
    EXPECT_TRUE(client.put("k", "v").applied);
    EXPECT_EQ(server.connections(), 1) << type;
  }
}

TEST(Exceptions, OfOtherTypesDoNotSayWhatCameOfAWrite) {
  for (const int type : {0, 6, 77}) {
    FakeServer server(scripted({answer_exception(type), answer_exception(type), answer_write}));
    Client client = make_client(server);
    const auto error = thrown<InternalError>([&] { client.put("k", "v"); });
    EXPECT_EQ(error.applied(), Applied::kUnknown) << type;
    EXPECT_EQ(error.tries(), 1) << type;
    EXPECT_EQ(thrown<InternalError>([&] { client.get("k"); }).applied(), Applied::kNo) << type;
  }
}

TEST(Exceptions, ThatAnswerAnotherRequestCostTheirConnection) {
  for (const int type : {3, 4, 5}) {
    FakeServer server(scripted({answer_exception(type), answer_write}));
    EXPECT_TRUE(make_client(server).put("k", "v").applied);
    EXPECT_EQ(server.requests().size(), 2u) << type;
    EXPECT_EQ(server.connections(), 2) << type;
  }
}

TEST(Connections, CloseEndsACallThatWaits) {
  std::promise<void> asked;
  FakeServer server(scripted({[&](const Request&) {
    asked.set_value();
    return Answer{};  // never
  }}));
  Client client = make_client(server);
  auto waiting = std::async(std::launch::async, [&] { return thrown<ClosedError>([&] { client.put("k", "v"); }); });
  asked.get_future().wait();
  client.close();
  EXPECT_EQ(waiting.get().applied(), Applied::kUnknown);
  EXPECT_EQ(thrown<ClosedError>([&] { client.put("k", "v"); }).applied(), Applied::kNo);
}

// -- retries and names
// -------------------------------------------------------------------------------------------------

TEST(Writes, AreSentAgainUnderTheSameName) {
  FakeServer server(scripted({cut, cut_reply, answer_write}));
  Client client = make_client(server);
  EXPECT_TRUE(client.put("k", "v").applied);
  EXPECT_TRUE(client.put("k", "w").applied);
  const std::vector<Request> puts = server.requests("put");
  ASSERT_EQ(puts.size(), 4u);
  EXPECT_EQ(puts[0].context.client_id.size(), 16u);
  EXPECT_GE(puts[0].context.first_sent_ms, 1'000'000) << "by the server's clock";
  EXPECT_LT(puts[0].context.first_sent_ms, 1'060'000);
  for (const Request& put : puts) EXPECT_EQ(put.context.client_id, puts[0].context.client_id);
  for (int i : {0, 1, 2}) {
    EXPECT_EQ(puts[i].context.sequence, 1);
    EXPECT_EQ(puts[i].context.first_sent_ms, puts[0].context.first_sent_ms);
  }
  EXPECT_EQ(puts[3].context.sequence, 2);
}

TEST(Writes, ALaneWithAnUnknownOutcomeIsNotUsedAgain) {
  FakeServer server(scripted({[](const Request&) { return Answer{}; }, answer_write}));
  Client client = make_client(server);
  EXPECT_EQ(thrown<DeadlineError>([&] { client.put("k", "v", {.timeout = 100ms}); }).applied(), Applied::kUnknown);
  client.put("k", "w");
  const std::vector<Request> puts = server.requests("put");
  ASSERT_EQ(puts.size(), 2u);
  EXPECT_NE(puts[0].context.client_id, puts[1].context.client_id);
  EXPECT_EQ(puts[1].context.sequence, 1);
}

TEST(Writes, ARefusalAfterALostAnswerIsUnknown) {
  FakeServer server(scripted({cut, [](const Request& request) { return failure(request, kv_error(15, 1, false)); }}));
  Client client = make_client(server);
  const auto error = thrown<DiskFullError>([&] { client.put("k", "v"); });
  EXPECT_EQ(error.applied(), Applied::kUnknown);
  EXPECT_EQ(error.tries(), 2);
}

TEST(Writes, WithoutANameAreSentOnceUnlessTheyWereRefused) {
  const auto old = [](FakeServer::Handler then) {
    return [then](const Request& request) -> std::optional<Answer> {
      if (request.method == "hello") return reply(request, hello({"idempotent_writes", "clocks"}));
      return then(request);
    };
  };
  FakeServer lost(old(scripted({cut, answer_write})));
  Client client = make_client(lost);
  const auto error = thrown<TransportError>([&] { client.put("k", "v"); });
  EXPECT_EQ(error.applied(), Applied::kUnknown);
  EXPECT_TRUE(lost.requests("put").at(0).context.client_id.empty());
  EXPECT_EQ(lost.requests("put").size(), 1u);

  FakeServer busy(
      old(scripted({[](const Request& request) { return failure(request, kv_error(8, 1, true)); }, answer_write})));
  Client patient = make_client(busy);
  EXPECT_TRUE(patient.put("k", "v").applied);

  FakeServer one(scripted({answer_write}));
  Client quick = make_client(one);
  quick.put("k", "v", {.level = WriteLevel::kOne});
  EXPECT_TRUE(one.requests("put").at(0).context.client_id.empty()) << "a write at ONE cannot have a name";
}

TEST(Retries, WaitAsLongAsTheServerAsks) {
  FakeServer server(
      scripted({[](const Request& request) { return failure(request, kv_error(8, 1, true, 150)); }, answer_get}));
  Client client = make_client(server);
  const auto began = Clock::now();
  EXPECT_EQ(client.get("k")->value, "x");
  EXPECT_GE(Clock::now() - began, 150ms);
  EXPECT_EQ(server.connections(), 1) << "an error that the server tells does not cost the connection";
}

TEST(Retries, EndWhenThereIsNoTimeToWait) {
  FakeServer server(scripted({[](const Request& request) { return failure(request, kv_error(8, 1, true, 60'000)); }}));
  Client client = make_client(server);
  const auto began = Clock::now();
  const auto error = thrown<DeadlineError>([&] { client.put("k", "v"); });
  EXPECT_LT(Clock::now() - began, 5s);
  EXPECT_EQ(error.tries(), 1);
  EXPECT_EQ(error.applied(), Applied::kNo);
  EXPECT_EQ(error.cause()->code, Code::kOverloaded);
  EXPECT_EQ(thrown<DeadlineError>([&] { client.put("k", "v", {.timeout = 0ms}); }).tries(), 0);
}

TEST(Retries, WithoutAServerNothingIsApplied) {
  std::optional<FakeServer> gone(std::in_place, scripted({cut}));
  Client client({gone->address()}, {.timeout = 100ms});
  gone.reset();
  const auto error = thrown<DeadlineError>([&] { client.put("k", "v"); });
  EXPECT_EQ(error.applied(), Applied::kNo);
  EXPECT_EQ(error.cause()->applied, Applied::kNo);
}

TEST(Retries, ErrorsAreOfTheirClass) {
  const auto fails_with = [](std::int32_t code) {
    return scripted({[code](const Request& request) { return failure(request, kv_error(code, 2, false)); }});
  };
  FakeServer gone(fails_with(12)), session(fails_with(21)), bad(fails_with(13)), corrupt(fails_with(16)),
      odd(fails_with(99));
  EXPECT_THROW(make_client(gone).get("k"), SnapshotGoneError);
  EXPECT_THROW(make_client(session).get("k"), SessionLostError);
  EXPECT_THROW(make_client(bad).get("k"), BadRequestError);
  EXPECT_THROW(make_client(corrupt).get("k"), CorruptError);
  EXPECT_EQ(thrown<Error>([&] { make_client(odd).put("k", "v"); }).applied(), Applied::kYes);
}

TEST(Retries, MultiGetAsksOnlyForWhatIsMissing) {
  FakeServer server(scripted({[](const Request& request) {
                                api::MultiGetReply wire;
                                wire.items.resize(3);
                                wire.items[0].record = found("a").record;
                                wire.items[1].__set_error(kv_error(10, 1, true));
                                wire.items[2].record.__set_found(false);
                                return reply(request, wire);
                              },
                              [](const Request& request) {
                                api::MultiGetReply wire;
                                wire.items.resize(1);
                                wire.items[0].record = found("b").record;
                                return reply(request, wire);
                              }}));
  Client client = make_client(server);
  const auto records = client.multi_get({"1", "2", "3"});
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0]->value, "a");
  EXPECT_EQ(records[1]->value, "b");
  EXPECT_FALSE(records[2]);
  EXPECT_EQ(server.requests().at(1).as<api::MultiGetRequest>().keys, std::vector<std::string>{"2"});
  EXPECT_TRUE(client.multi_get(std::vector<std::string>()).empty());
}

// -- sessions, snapshots, scans, watches
// -------------------------------------------------------------------------------

TEST(Sessions, CarryTheirTokenAndTheClientItsClock) {
  FakeServer server([](const Request& request) -> std::optional<Answer> {
    if (request.method == "hello") return std::nullopt;
    api::WriteResult result = applied();
    result.context.__set_session("token of " + request.method);
    result.context.__set_hlc(request.method == "put" ? 900 : 400);
    result.__isset.context = true;
    if (request.method != "get") return reply(request, result);
    return answer_get(request);
  });
  Client client = make_client(server);
  Session session = client.session();
  session.put("k", "v");
  session.remove("k");
  session.get("k");
  client.get("k");
  const std::vector<Request> requests = server.requests();
  EXPECT_EQ(requests.at(1).context.session, "token of put");
  EXPECT_EQ(requests.at(2).context.session, "token of remove");
  EXPECT_EQ(requests.at(2).context.level, static_cast<int>(ReadLevel::kSession));
  EXPECT_EQ(requests.at(2).context.hlc, 900) << "the highest that was seen";
  EXPECT_EQ(requests.at(3).context.session, "");
  EXPECT_EQ(requests.at(3).context.level, 0);
  EXPECT_EQ(session.token(), "token of remove");
}

TEST(Snapshots, AreRenewedAndReleased) {
  std::atomic<int> renewals{0};
  std::promise<void> twice;
  FakeServer server([&](const Request& request) -> std::optional<Answer> {
    if (request.method == "hello") return std::nullopt;
    if (request.method == "get") return answer_get(request);
    if (request.method == "releaseSnapshot") return reply(request, api::ReleaseSnapshotReply());
    if (request.method == "renewSnapshot" && ++renewals == 2) twice.set_value();
    api::SnapshotReply wire;
    wire.__set_snapshot("token");
    wire.__set_version(5);
    return reply(request, wire);
  });
  Client client = make_client(server);
  {
    Snapshot first = client.snapshot({.ttl = 60ms});
    Snapshot snapshot = std::move(first);
    EXPECT_EQ(snapshot.version(), 5);
    snapshot.get("k");
    twice.get_future().wait();
  }
  EXPECT_EQ(server.requests("get").at(0).as<api::GetRequest>().snapshot, "token");
  EXPECT_EQ(server.requests("renewSnapshot").at(0).as<api::RenewSnapshotRequest>().ttl_ms, 60);
  EXPECT_EQ(server.requests("releaseSnapshot").size(), 1u) << "once, although it was moved";
}

// Ten rows, at most three a page.
std::optional<Answer> answer_scan(const Request& request) {
  const auto scan = request.as<api::ScanRequest>();
  int next = scan.cursor.empty() ? 0 : std::stoi(scan.cursor);
  const int most = scan.limit_rows == 0 ? 3 : std::min(scan.limit_rows, 3);
  api::ScanReply wire;
  for (int i = 0; i < most && next < 10; ++i, ++next) {
    api::Row row;
    row.__set_key(std::to_string(next));
    wire.rows.push_back(row);
  }
  wire.__isset.rows = true;
  if (next < 10) wire.__set_cursor(std::to_string(next));
  return reply(request, wire);
}

TEST(Scans, ReadPageByPage) {
  FakeServer server(scripted({answer_scan}));
  Client client = make_client(server);
  std::string keys;
  Scan scan = client.scan({.prefix = ""});
  for (const Row& row : scan) keys += row.key;
  EXPECT_EQ(keys, "0123456789");
  EXPECT_EQ(scan.pages(), 4);
  EXPECT_TRUE(scan.done());
  EXPECT_EQ(scan.cursor(), "");
}

TEST(Scans, StopAtTheirLimitAndContinueAtTheirCursor) {
  FakeServer server(scripted({answer_scan}));
  Client client = make_client(server);
  Scan scan = client.scan({.limit = 7});
  EXPECT_EQ(std::ranges::distance(scan), 7);
  EXPECT_EQ(scan.cursor(), "7");
  EXPECT_FALSE(scan.done());
  EXPECT_EQ(server.requests().at(2).as<api::ScanRequest>().limit_rows, 1) << "no more than it needs";
  EXPECT_EQ(client.scan({.cursor = scan.cursor()}).begin()->key, "7");

  Scan part = client.scan({});
  auto it = part.begin();
  EXPECT_EQ(part.cursor(), "") << "the first page is not finished";
  ++it, ++it;
  EXPECT_EQ(part.cursor(), "3") << "all its rows were taken";
  ++it;
  EXPECT_EQ(part.cursor(), "3");
  const std::size_t before = server.requests().size();
  EXPECT_EQ(std::ranges::distance(client.scan({.limit = 0}).begin(), std::default_sentinel), 0);
  EXPECT_EQ(server.requests().size(), before);
}

// Waits, in real time, until the test says that something changed.
struct Feed {
  std::mutex mutex;
  std::condition_variable changed;
  int changes = 0;
  std::optional<Answer> operator()(const Request& request) {
    if (request.method != "watch") return request.method == "hello" ? std::nullopt : answer_get(request);
    const auto watch = request.as<api::WatchRequest>();
    int from = watch.position.empty() ? 0 : std::stoi(watch.position);
    std::unique_lock lock(mutex);
    changed.wait_for(lock, milliseconds(watch.wait_ms), [&] { return changes > from; });
    api::WatchReply wire;
    for (int sent = 0; from < changes && (watch.limit_changes == 0 || sent < watch.limit_changes); ++from, ++sent) {
      api::Change change;
      change.__set_key(std::to_string(from));
      wire.changes.push_back(change);
    }
    wire.__isset.changes = true;
    wire.__set_position(std::to_string(from));
    return reply(request, wire);
  }
};

TEST(Watches, TellTheirPosition) {
  Feed feed;
  FakeServer server([&](const Request& request) { return feed(request); });
  Client client = make_client(server, {.pool_size = 1});
  Watch watch = client.watch("");
  EXPECT_EQ(watch.position(), "0") << "from now on means from the call on";
  EXPECT_FALSE(watch.next(0ms));
  {
    const std::lock_guard lock(feed.mutex);
    feed.changes = 5;
  }
  EXPECT_EQ(watch.poll(2, 1s).size(), 2u);
  EXPECT_EQ(watch.position(), "2") << "it has not read ahead";
  EXPECT_EQ(watch.next(1s)->key, "2");
  EXPECT_EQ(watch.position(), "2") << "behind the changes of a reply that were all taken";
  EXPECT_EQ(watch.poll(9, 1s).size(), 2u);
  EXPECT_EQ(watch.position(), "5");
  EXPECT_EQ(client.get("k")->value, "x");
  EXPECT_EQ(server.connections(), 2) << "a watch has a connection of its own";
  EXPECT_EQ(client.watch("", {.position = "4"}).next(1s)->key, "4");
}

TEST(Watches, EndWhenTheyAreStopped) {
  Feed feed;
  FakeServer server([&](const Request& request) { return feed(request); });
  Client client = make_client(server);
  Watch watch = client.watch("");
  auto iterating = std::async(std::launch::async, [&] { return std::ranges::distance(watch.begin(), watch.end()); });
  while (server.requests("watch").size() < 2) std::this_thread::yield();
  watch.stop();
  EXPECT_EQ(iterating.get(), 0);
  {
    const std::lock_guard lock(feed.mutex);  // lets the server end
    feed.changes = 1;
    feed.changed.notify_all();
  }
  EXPECT_TRUE(watch.poll(1, 1s).empty());
}

}  // namespace
}  // namespace pando::client::testing
