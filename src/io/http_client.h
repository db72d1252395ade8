// HttpClient sends HTTP/1.1 POST requests over libcurl. It is for control work: a few requests a
// second, to servers that may be slow, dead, or reached through TLS.
//
// libcurl runs on a thread of its own (which starts with the first request), because it waits for
// sockets in its own way. A request goes there through a queue, and its answer comes back as a
// message to the reactor.
//
// Threads: all methods belong to the reactor's thread.
//
// Invariants
//   HC1  A request ends within its timeout, and never holds more than max_response_bytes of answer.
//   HC2  A request is sent at most once. (libcurl sends a request again if a connection that it has
//        kept open turns out to be dead; whoever cannot bear that asks for a fresh connection.)
//   HC3  No proxy is used, whatever the environment says, and no redirection is followed.
//   HC4  A client is destroyed only when none of its requests is in progress.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/io/reactor.h"
#include "src/io/task.h"

namespace pando {

struct HttpRequest {
  std::string url;
  std::string body;
  std::vector<std::string> headers;  // "Name: value"
  Nanos timeout_ns = 0, connect_timeout_ns = 0;
  size_t max_response_bytes = 1u << 20;
  // The answer is a stream of lines, and is over when it has this many. 0: it ends by itself.
  size_t stop_after_lines = 0;
  bool fresh_connection = false;  // HC2
  bool is_wait = false;           // EndWaits ends it
  // PEM files, for https. Without `ca_file`, the system's authorities are trusted.
  std::string ca_file, cert_file, key_file;
};

struct HttpAnswer {
  // Why there is no complete answer, or OK. kDeadline: the time was over; kAborted: EndWaits.
  Status failure;
  // If it failed: the server may have got the request.
  bool may_have_arrived = false;
  int status = 0;    // of HTTP; 0 if none has come
  std::string body;  // what has come of it, even if it failed
};

class HttpClient {
 public:
  virtual ~HttpClient() = default;
  virtual Task<HttpAnswer> Post(HttpRequest request) = 0;
  // Ends requests with is_wait, now and later.
  virtual void EndWaits() = 0;
};

// Returns kUnsupported for a reactor that is not a real one.
Result<std::unique_ptr<HttpClient>> MakeHttpClient(Reactor& reactor);

}  // namespace pando
