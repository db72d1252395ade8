#include "src/topology/etcd_topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace pando {
namespace {

const std::string kHasLeader = "Grpc-Metadata-hasleader: true";  // a member that has lost its leader says so

}  // namespace

EtcdTopology::EtcdTopology(Reactor& reactor, std::unique_ptr<HttpClient> http, EtcdOptions options)
    : reactor_(reactor), http_(std::move(http)), options_(std::move(options)), keys_{"/pando/" + options_.name + "/"} {
  CHECK(!options_.endpoints.empty());
  name_ = fmt::format("etcd://{}/{}", fmt::join(options_.endpoints, ","), options_.name);
  preferred_ = reactor_.Random() % options_.endpoints.size();
}

Task<Status> EtcdTopology::Close() {
  http_.reset();
  co_return Status();
}

HttpRequest EtcdTopology::MakeRequest(size_t endpoint, const char* path, std::string body) const {
  HttpRequest request;
  request.url =
      fmt::format("{}://{}{}", options_.ca_file.empty() ? "http" : "https", options_.endpoints[endpoint], path);
  request.body = std::move(body);
  request.headers.push_back(kHasLeader);
  request.connect_timeout_ns = kConnectTimeoutNs;
  request.max_response_bytes = kMaxAnswerBytes;
  request.ca_file = options_.ca_file;
  request.cert_file = options_.cert_file;
  request.key_file = options_.key_file;
  return request;
}

std::string EtcdTopology::Describe(size_t endpoint, const HttpAnswer& answer) const {
  const std::string& address = options_.endpoints[endpoint];
  if (!answer.failure.ok()) return fmt::format("{}: {}", address, answer.failure.message());
  return fmt::format("{}: HTTP status {}: {}", address, answer.status, DecodeEtcdError(answer.body).message);
}

// `take` takes the body of an answer, and says whether it is one. With `once`, a request that may have
// been received is not sent again.
Task<EtcdTopology::Reply> EtcdTopology::Ask(std::string body, bool once, Nanos deadline_ns, const Take& take) {
  const size_t count = options_.endpoints.size();
  const size_t first = preferred_;
  std::string problems;
  Code code = Code::kUnavailable;
  for (size_t i = 0; i < count; ++i) {
    const Nanos left_ns = deadline_ns - reactor_.NowNs();
    if (left_ns <= 0) break;
    const size_t endpoint = (first + i) % count;
    HttpRequest request = MakeRequest(endpoint, "/v3/kv/txn", body);
    const Nanos share_ns = left_ns / static_cast<Nanos>(count - i);
    request.timeout_ns = once ? left_ns : std::min(left_ns, std::max(share_ns, kMinTryNs));
    request.connect_timeout_ns = std::min(kConnectTimeoutNs, std::max(share_ns, kMinTryNs));
    request.fresh_connection = once;  // ET1
    HttpAnswer answer = co_await http_->Post(std::move(request));
    const bool refused = answer.failure.ok() && answer.status != 200 && DecodeEtcdError(answer.body).IsRefusal();
    if (answer.failure.ok() && answer.status == 200) {
      answer.failure = take(answer.body);
      answer.may_have_arrived = true;
    }
    if (answer.failure.ok() && answer.status == 200) {
      preferred_ = endpoint;
      co_return Reply{Status(), false};
    }
    if (preferred_ == endpoint) preferred_ = (endpoint + 1) % count;
    problems += (problems.empty() ? "" : "; ") + Describe(endpoint, answer);
    code = answer.failure.ok() ? Code::kUnavailable : answer.failure.code();
    if (!once) continue;
    const bool may_have_acted = answer.failure.ok() ? !refused : answer.may_have_arrived;
    if (may_have_acted) co_return Reply{Error(code, "{}: {}", name_, problems), true};
  }
  if (problems.empty()) problems = "the time was over before the request could be sent";
  co_return Reply{Error(code, "{}: {}", name_, problems), false};
}

Status EtcdTopology::CheckCluster(const EtcdHeader& header) {
  if (cluster_id_ == 0) cluster_id_ = header.cluster_id;
  if (cluster_id_ == header.cluster_id) return Status();
  return Error(
      Code::kCorruption,
      "{}: the answer comes from the etcd cluster {:x}, and earlier ones came from {:x}. Do the endpoints belong "
      "to one cluster, and has it been restored from a backup? Correct --topology, or restart the node if this "
      "etcd is the right one",
      name_, header.cluster_id, cluster_id_);
}

// -- reading

Task<Result<EtcdRangeAnswer>> EtcdTopology::AskRange(std::string body, Nanos deadline_ns) {
  Result<EtcdRangeAnswer> answer = EtcdRangeAnswer();
  const Take take = [this, &answer](const std::string& text) {
    answer = DecodeEtcdRange(keys_, text);
    return answer.status();
  };
  Reply reply = co_await Ask(std::move(body), /*once=*/false, deadline_ns, take);
  if (!reply.failure.ok()) co_return std::move(reply.failure);
  CO_RETURN_IF_ERROR(CheckCluster(answer->header));
  co_return answer;
}

Task<Result<TopologyEntry>> EtcdTopology::Read(std::string key, Nanos deadline_ns) {
  Result<EtcdRangeAnswer> answer = co_await AskRange(EtcdReadRequest(keys_, key), deadline_ns);
  if (!answer.ok()) co_return answer.TakeStatus();
  if (answer->entries.empty()) co_return TopologyEntry{key, "", 0};
  if (answer->entries.size() > 1 || answer->entries.front().key != key) {
    co_return Error(Code::kCorruption, "{}: the answer has another key than {}", name_, key);
  }
  co_return std::move(answer->entries.front());
}

Task<Result<TopologyListing>> EtcdTopology::List(Nanos deadline_ns) {
  Result<EtcdRangeAnswer> answer = co_await AskRange(EtcdListRequest(keys_, kMaxTopologyKeys + 1), deadline_ns);
  if (!answer.ok()) co_return answer.TakeStatus();
  TopologyListing listing;
  listing.revision = answer->header.revision;
  CO_ASSIGN_OR_RETURN(listing.memory, CheckEntries(*answer));
  listing.entries = std::move(answer->entries);
  co_return listing;
}

Result<MemoryGrant> EtcdTopology::CheckEntries(const EtcdRangeAnswer& answer) const {
  TopologySize size(memory_);
  for (size_t i = 0; i < answer.entries.size(); ++i) {
    const TopologyEntry& entry = answer.entries[i];
    RETURN_IF_ERROR(size.Add(entry.key, entry.value.size()));
    if (entry.revision > answer.header.revision || (i > 0 && entry.key <= answer.entries[i - 1].key)) {
      return Error(Code::kCorruption, "{}: the listing is out of order at {}", name_, entry.key);
    }
  }
  return size.TakeMemory();
}

// Each change of any key raises the revision of etcd, as the removal of one does.
Task<Result<TopologyChanges>> EtcdTopology::ReadChanges(Revision after, Nanos deadline_ns) {
  TopologyChanges changes;
  Result<EtcdRangeAnswer> answer = co_await AskRange(EtcdRevisionRequest(keys_), deadline_ns);
  if (!answer.ok()) co_return answer.TakeStatus();
  changes.revision = answer->header.revision;
  if (changes.revision <= after) co_return changes;
  answer = co_await AskRange(EtcdChangedRequest(keys_, after + 1, kMaxTopologyKeys + 1), deadline_ns);
  if (!answer.ok()) co_return answer.TakeStatus();
  changes.revision = answer->header.revision;
  changes.keys = answer->count;
  for (const TopologyEntry& entry : answer->entries) {
    if (entry.revision > after) continue;
    co_return Error(Code::kCorruption, "{}: {} has not changed since revision {}, and was reported", name_, entry.key,
                    after);
  }
  CO_ASSIGN_OR_RETURN(changes.memory, CheckEntries(*answer));
  changes.entries = std::move(answer->entries);
  co_return changes;
}

// -- writing

Task<Result<CasOutcome>> EtcdTopology::CompareAndSwap(std::string key, Revision expected, std::string value,
                                                      Nanos deadline_ns) {
  Result<EtcdSwapAnswer> answer = EtcdSwapAnswer();
  const Take take = [&answer](const std::string& text) {
    answer = DecodeEtcdSwap(text);
    return answer.status();
  };
  Reply reply = co_await Ask(EtcdSwapRequest(keys_, key, expected, value), /*once=*/true, deadline_ns, take);
  if (!reply.failure.ok()) {
    if (reply.unknown) co_return CasOutcome::Unknown(std::move(reply.failure));
    co_return std::move(reply.failure);
  }
  if (Status same = CheckCluster(answer->header); !same.ok()) co_return CasOutcome::Unknown(std::move(same));
  if (!answer->succeeded) co_return CasOutcome::Conflict();
  co_return CasOutcome::Stored(answer->header.revision);
}

// -- changes

Task<Result<TopologyChanges>> EtcdTopology::WaitForChange(Revision after, Nanos deadline_ns) {
  const size_t endpoint = preferred_;
  HttpRequest request = MakeRequest(endpoint, "/v3/watch", EtcdWatchRequest(keys_, after + 1));
  request.timeout_ns = std::max<Nanos>(deadline_ns - reactor_.NowNs(), kMillisecond);
  request.stop_after_lines = 2;  // that it was created, and what there is
  request.is_wait = true;
  HttpAnswer answer = co_await http_->Post(std::move(request));
  Result<TopologyChanges> changes = TopologyChanges();
  if (answer.failure.code() == Code::kAborted) {
    co_return std::move(answer.failure);
  } else if ((answer.failure.ok() || answer.failure.code() == Code::kDeadline) && answer.status == 200) {
    changes = DecodeChanges(after, answer);
  } else {
    changes = Error(Code::kUnavailable, "{}: {}", name_, Describe(endpoint, answer));
  }
  if (!changes.ok() && preferred_ == endpoint) preferred_ = (endpoint + 1) % options_.endpoints.size();
  co_return changes;
}

Result<TopologyChanges> EtcdTopology::DecodeChanges(Revision after, const HttpAnswer& answer) {
  TopologyChanges changes;
  changes.revision = after;
  std::string_view rest = answer.body;
  size_t lines = 0;
  for (size_t end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
    const std::string_view text = rest.substr(0, end);
    rest.remove_prefix(end + 1);
    if (text.empty()) continue;
    ++lines;
    Result<EtcdWatchLine> line = DecodeEtcdWatch(keys_, text);
    if (!line.ok()) return Error(line.code(), "{}: {}", name_, line.status().message());
    if (line->canceled && line->compacted == 0) {
      return Error(Code::kUnavailable, "{}: etcd has ended the watch: {}", name_, line->reason);
    }
    RETURN_IF_ERROR(CheckCluster(line->header));
    changes.gap |= line->compacted > 0 || line->deleted;
    for (TopologyEntry& entry : line->entries) {
      // Not the header's: a member that is behind sends its changes piece by piece.
      changes.revision = std::max(changes.revision, entry.revision);
      changes.entries.push_back(std::move(entry));
    }
  }
  if (lines == 0) return Error(Code::kUnavailable, "{}: a watch was not answered in time", name_);
  // It ended by itself, and said nothing.
  if (answer.failure.ok() && changes.entries.empty() && !changes.gap) {
    return Error(Code::kUnavailable, "{}: etcd has ended the watch", name_);
  }
  return changes;
}

}  // namespace pando
