#include "src/io/http_client.h"

#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "src/io/uring_reactor.h"

namespace pando {
namespace {

constexpr long kMaxConnections = 16;
constexpr long kKeptConnections = 4;
constexpr int kPollMs = 1000;

// A request on its way through the thread. It comes back as a message that has no Return.
class HttpCall final : public RemoteCall {
 public:
  void Start() override { waiter.resume(); }
  void Finish() override {}

  HttpRequest request;
  HttpAnswer answer;
  std::coroutine_handle<> waiter;
  // Of the thread:
  CURL* easy = nullptr;
  curl_slist* headers = nullptr;
  size_t lines = 0;
  bool too_long = false, enough = false;
  char error[CURL_ERROR_SIZE] = {};
};

size_t OnBody(char* data, size_t, size_t bytes, void* user) {
  auto* call = static_cast<HttpCall*>(user);
  std::string& body = call->answer.body;
  call->too_long = body.size() + bytes > call->request.max_response_bytes;
  if (call->too_long) return 0;  // HC1: ends the transfer
  body.append(data, bytes);
  call->lines += static_cast<size_t>(std::count(data, data + bytes, '\n'));
  call->enough = call->request.stop_after_lines > 0 && call->lines >= call->request.stop_after_lines;
  return call->enough ? 0 : bytes;
}

long Milliseconds(Nanos ns) { return std::max<long>(1, static_cast<long>(ns / kMillisecond)); }

template <typename T>
void Set(CURL* easy, CURLoption option, T value) {
  CHECK_EQ(curl_easy_setopt(easy, option, value), CURLE_OK) << "libcurl lacks option " << option;
}

void Prepare(HttpCall* call) {
  const HttpRequest& request = call->request;
  CURL* easy = call->easy = curl_easy_init();
  CHECK(easy != nullptr) << "libcurl has no memory";
  for (const std::string& header : request.headers) call->headers = curl_slist_append(call->headers, header.c_str());
  call->headers = curl_slist_append(call->headers, "Content-Type: application/json");
  call->headers = curl_slist_append(call->headers, "Expect:");  // else long bodies wait for permission
  Set(easy, CURLOPT_URL, request.url.c_str());
  Set(easy, CURLOPT_HTTPHEADER, call->headers);
  Set(easy, CURLOPT_POST, 1L);
  Set(easy, CURLOPT_POSTFIELDS, request.body.data());
  Set(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
  Set(easy, CURLOPT_WRITEFUNCTION, &OnBody);
  Set(easy, CURLOPT_WRITEDATA, call);
  Set(easy, CURLOPT_PRIVATE, call);
  Set(easy, CURLOPT_ERRORBUFFER, call->error);
  Set(easy, CURLOPT_TIMEOUT_MS, Milliseconds(request.timeout_ns));
  Set(easy, CURLOPT_CONNECTTIMEOUT_MS, Milliseconds(request.connect_timeout_ns));
  Set(easy, CURLOPT_FRESH_CONNECT, request.fresh_connection ? 1L : 0L);  // HC2
  Set(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  Set(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  Set(easy, CURLOPT_FOLLOWLOCATION, 0L);  // HC3
  Set(easy, CURLOPT_PROXY, "");
  Set(easy, CURLOPT_NOSIGNAL, 1L);
  if (!request.ca_file.empty()) Set(easy, CURLOPT_CAINFO, request.ca_file.c_str());
  if (!request.cert_file.empty()) Set(easy, CURLOPT_SSLCERT, request.cert_file.c_str());
  if (!request.key_file.empty()) Set(easy, CURLOPT_SSLKEY, request.key_file.c_str());
}

// Whether the request cannot have been sent when the transfer ended like this.
bool NotSent(CURL* easy, CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_URL_MALFORMAT: return true;
    case CURLE_OPERATION_TIMEDOUT: {
      curl_off_t begun_us = 0;  // when the connection was ready to send
      curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &begun_us);
      return begun_us == 0;
    }
    default: return false;
  }
}

void Conclude(HttpCall* call, CURLcode code) {
  long status = 0;
  curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
  call->answer.status = static_cast<int>(status);
  if (code == CURLE_OK || (code == CURLE_WRITE_ERROR && call->enough)) return;
  call->answer.may_have_arrived = !NotSent(call->easy, code);
  if (call->too_long) {
    call->answer.failure =
        Error(Code::kCorruption, "the answer is longer than {} bytes", call->request.max_response_bytes);
    return;
  }
  const Code kind = code == CURLE_OPERATION_TIMEDOUT ? Code::kDeadline : Code::kUnavailable;
  call->answer.failure = Error(kind, "{}", call->error[0] != '\0' ? call->error : curl_easy_strerror(code));
}

class CurlClient final : public HttpClient {
 public:
  explicit CurlClient(UringReactor* reactor) : reactor_(reactor) {
    static std::once_flag once;
    std::call_once(once, [] { CHECK_EQ(curl_global_init(CURL_GLOBAL_DEFAULT), CURLE_OK); });
    multi_ = curl_multi_init();
    CHECK(multi_ != nullptr) << "libcurl has no memory";
    curl_multi_setopt(multi_, CURLMOPT_MAX_TOTAL_CONNECTIONS, kMaxConnections);
    curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, kKeptConnections);
  }
  ~CurlClient() override {
    CHECK_EQ(in_progress_, 0u) << "HC4: the client ends before its requests";
    {
      std::lock_guard lock(mutex_);
      ending_ = true;
    }
    curl_multi_wakeup(multi_);
    if (thread_.joinable()) thread_.join();
    curl_multi_cleanup(multi_);
  }

  Task<HttpAnswer> Post(HttpRequest request) override {
    struct Awaiter {
      CurlClient* client;
      HttpCall* call;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> h) {
        call->waiter = h;
        client->Hand(call);
      }
      void await_resume() noexcept {}
    };
    HttpCall call;
    call.request = std::move(request);
    ++in_progress_;
    Awaiter awaiter{this, &call};
    co_await awaiter;
    --in_progress_;
    co_return std::move(call.answer);
  }

  void EndWaits() override {
    {
      std::lock_guard lock(mutex_);
      end_waits_ = true;
    }
    curl_multi_wakeup(multi_);
  }

 private:
  void Hand(HttpCall* call) {
    std::unique_lock lock(mutex_);
    handed_.push_back(call);
    if (!thread_.joinable()) StartThread();
    lock.unlock();
    curl_multi_wakeup(multi_);
  }

  void StartThread() {
    sigset_t all, before;  // the new thread inherits the signal mask
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    thread_ = std::thread([this] { ThreadMain(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void ThreadMain() {
    pthread_setname_np(pthread_self(), "http-client");
    for (;;) {
      std::vector<HttpCall*> handed;
      bool end_waits;
      {
        std::lock_guard lock(mutex_);
        handed.swap(handed_);
        end_waits = end_waits_;
        if (ending_) return;
      }
      for (HttpCall* call : handed) {
        Prepare(call);
        running_.push_back(call);
        CHECK_EQ(curl_multi_add_handle(multi_, call->easy), CURLM_OK);
      }
      if (end_waits) EndRunningWaits();
      int running = 0;
      curl_multi_perform(multi_, &running);
      TakeEnded();
      curl_multi_poll(multi_, nullptr, 0, kPollMs, nullptr);
    }
  }

  void TakeEnded() {
    int left = 0;
    while (CURLMsg* message = curl_multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      HttpCall* call = nullptr;
      curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &call);
      Conclude(call, message->data.result);
      SendBack(call);
    }
  }

  void EndRunningWaits() {
    for (HttpCall* call : std::vector<HttpCall*>(running_)) {
      if (!call->request.is_wait) continue;
      call->answer.failure = Error(Code::kAborted, "the wait was ended");
      call->answer.may_have_arrived = true;
      SendBack(call);
    }
  }

  void SendBack(HttpCall* call) {
    std::erase(running_, call);
    curl_multi_remove_handle(multi_, call->easy);
    curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    reactor_->Post(call);  // from here on the call belongs to its reactor
  }

  UringReactor* const reactor_;
  CURLM* multi_ = nullptr;
  size_t in_progress_ = 0;
  std::thread thread_;
  std::mutex mutex_;  // guards what follows
  std::vector<HttpCall*> handed_;
  bool end_waits_ = false, ending_ = false;
  std::vector<HttpCall*> running_;  // of the thread
};

}  // namespace

Result<std::unique_ptr<HttpClient>> MakeHttpClient(Reactor& reactor) {
  auto* real = dynamic_cast<UringReactor*>(&reactor);
  if (real == nullptr) return Error(Code::kUnsupported, "only a real reactor has a client of HTTP");
  return std::unique_ptr<HttpClient>(new CurlClient(real));
}

}  // namespace pando
