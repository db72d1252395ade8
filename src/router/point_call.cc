#include "src/router/point_call.h"

#include <algorithm>
#include <array>
#include <utility>

#include "gen-cpp/Kv.h"
#include "src/kvapi/kv_errors.h"
#include "src/router/point_request.h"
#include "src/rpc/rpc_dispatch.h"

namespace pando {

namespace {

// An answer that is as short as this is passed on as it is, however short memory is.
constexpr size_t kLeastLargeBytes = 1024;

template <typename Args>
Status Normalize(ThriftCodec* codec, WireProtocol protocol, std::string_view body, MemoryGrant* memory,
                 std::string* usual) {
  Args args;
  RETURN_IF_ERROR(codec->Read(protocol, body, &args, memory));
  codec->WriteStruct(args, usual);
  return {};
}

template <typename Result>
void Translate(RpcServer* server, const RequestId& id, std::string_view name, std::string_view body) {
  Result result;
  if (Status status = server->codec().Read(WireProtocol::kBinary, body, &result); !status.ok()) {
    return server->ReplyError(id, name,
                              ToKvError(Error(Code::kAborted, "a node's answer cannot be decoded"), /*is_write=*/true));
  }
  server->Reply(id, name, result);
}

template <typename Result>
std::optional<std::string> LeaveValueOut(ThriftCodec* codec, std::string_view body) {
  if constexpr (requires(Result result) { result.success.current_value_omitted; }) {
    Result result;
    if (!codec->Read(WireProtocol::kBinary, body, &result).ok()) return std::nullopt;
    const auto leave_out = [](bool is_set, api::Record* record, bool* omitted) {
      if (!is_set || record->value.empty()) return;
      std::string().swap(record->value);
      *omitted = true;
    };
    leave_out(result.success.__isset.current, &result.success.current, &result.success.current_value_omitted);
    leave_out(result.success.__isset.previous, &result.success.previous, &result.success.previous_value_omitted);
    std::string without;
    codec->WriteStruct(result, &without);
    return without;
  }
  return std::nullopt;
}

template <typename Args, typename Result>
constexpr PointMethod MakeMethod(std::string_view name, bool is_write) {
  return {name, is_write, Normalize<Args>, LeaveValueOut<Result>, Translate<Result>};
}

const std::array<PointMethod, 5> kPointMethods = {
    MakeMethod<api::Kv_get_args, api::Kv_get_result>("get", false),
    MakeMethod<api::Kv_put_args, api::Kv_put_result>("put", true),
    MakeMethod<api::Kv_remove_args, api::Kv_remove_result>("remove", true),
    MakeMethod<api::Kv_increment_args, api::Kv_increment_result>("increment", true),
    MakeMethod<api::Kv_touch_args, api::Kv_touch_result>("touch", true),
};

}  // namespace

const PointMethod* FindPointMethod(std::string_view name) {
  for (const PointMethod& method : kPointMethods) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

void PointCall::Fail(const Status& why) { error = ToKvError(why, method->is_write); }

Status PointCall::OnReply(const MessageHeader& header, std::string_view body, ThriftCodec* codec) {
  if (header.type == apache::thrift::protocol::T_EXCEPTION) {
    server->metrics().bad_requests_total.Add();
    Pass(header, body);
    return {};
  }
  switch (KindOfReply(body)) {
    case ReplyKind::kSuccess:
      hlc = HlcOfReply(body);
      if (stamps != nullptr) stamps->Count(hash);
      if (fill.cache != nullptr) fill.cache->Insert(fill, body);
      Pass(header, body);
      return {};
    case ReplyKind::kError: {
      api::Kv_get_result result;  // in every method's result, field 1 is the error
      RETURN_IF_ERROR(codec->Read(header.protocol, body, &result));
      error = std::move(result.error);
      has_error = true;
      return {};
    }
    case ReplyKind::kOther: break;
  }
  return Error(Code::kCorruption, "its answer to {} is neither a result nor an error", method->name);
}

void PointCall::Pass(const MessageHeader& header, std::string_view body) {
  for (const std::unique_ptr<PointCall>& sharer : sharers) {
    if (sharer->answered) continue;
    sharer->server->reactor().CancelTimer(sharer.get());
    sharer->Pass(header, body);
  }
  answered = true;
  // The value must be held until the client has read it, as on a node. What came of a write must be said.
  const bool exhausted = server->Exhausted();
  if (!method->is_write && exhausted) return server->ReplyOverloaded(id, method->name);
  std::optional<std::string> without;
  if (exhausted && header.type == apache::thrift::protocol::T_REPLY && body.size() > kLeastLargeBytes) {
    without = method->leave_value_out(&server->codec(), body);
    if (without) body = *without;
  }
  if (id.protocol != header.protocol && header.type == apache::thrift::protocol::T_REPLY) {
    return method->translate(server, id, method->name, body);
  }
  if (id.protocol != header.protocol) {
    return server->ReplyException(id, method->name, TApplicationException::UNKNOWN, "a node refused the request");
  }
  server->codec().WriteEncoded(RpcServer::Header(id, method->name, header.type), body, {}, server->BeginReply(id));
  server->EndReply(id);
}

void PointCall::AnswerLate() {
  answered = true;
  ReplyLate(server, id, method->name, budget_ms, /*not_applied=*/true);
  End();
  for (std::vector<std::unique_ptr<PointCall>>* list : {&lead->waiting, &lead->sharers}) {
    const auto self = std::find_if(list->begin(), list->end(),
                                   [this](const std::unique_ptr<PointCall>& c) { return c.get() == this; });
    if (self == list->end()) continue;
    std::swap(*self, list->back());
    list->pop_back();  // destroys this
    return;
  }
}

void PointCall::Refuse(api::KvError why) {
  answered = true;
  // What the last try says does not tell what came of the first.
  if (maybe_applied) why.applied = static_cast<int32_t>(ApiApplied::kUnknown);
  server->ReplyError(id, method->name, why);
}

void PointCall::End() {
  if (std::exchange(ended, true)) return;
  if (stamps != nullptr) stamps->Count(hash);
  memory.ReleaseAll();
  server->EndCall(id);
}

}  // namespace pando
