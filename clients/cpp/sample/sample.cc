// A tour of the client: pando_sample [HOST:PORT,HOST:PORT], by default at the routers of ./dev up.
// It writes, and in the end removes, keys that begin with "cpp-sample/".
#include <pando/client.h>

#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace pc = pando::client;
using namespace std::chrono_literals;

namespace {

void records(pc::Client& client) {
  client.put("cpp-sample/fruit/apple", "red");
  client.put("cpp-sample/fruit/pear", "green");
  const std::optional<pc::Record> apple = client.get("cpp-sample/fruit/apple");
  std::cout << "get: " << apple->value << ", version " << apple->version << "\n";

  // Change it only if nobody else has changed it since it was read. A failed condition is a result, not an error.
  const auto ours = client.put("cpp-sample/fruit/apple", "yellow", {.condition = pc::if_version(apple->version)});
  const auto late = client.put("cpp-sample/fruit/apple", "blue", {.condition = pc::if_version(apple->version)});
  std::cout << "first update applied: " << ours.applied << ", second: " << late.applied << ", because it is now "
            << late.current->value << "\n";

  std::cout << "counter: " << client.increment("cpp-sample/visits") << "\n";
  client.put("cpp-sample/session/1", "...", {.expiry = pc::Expiry::after(1h)});

  // Keys that share a {tag} share a partition, and the ops of a batch on them become visible together.
  const pc::BatchResult done = client.write_batch(
      pc::Batch().put("cpp-sample/{order7}/state", "paid").increment("cpp-sample/{order7}/changes").all_or_nothing());
  std::cout << "order written: " << done.all_applied() << "\n";
}

void ranges(pc::Client& client) {
  pc::Snapshot snapshot = client.snapshot();  // renewed in the background, released at the end of this function
  client.remove("cpp-sample/fruit/pear");
  for (const pc::Row& row : snapshot.scan({.prefix = "cpp-sample/fruit/"})) {
    std::cout << "scan of the snapshot: " << row.key << " = " << row.value << "\n";
  }
  std::cout << "records now: " << client.count(pc::with_prefix("cpp-sample/fruit/")) << "\n";

  // What was written since the snapshot. An endless range; next() has a time limit.
  pc::Watch watch = client.watch("cpp-sample/fruit/", {.after_version = snapshot.version()});
  while (const std::optional<pc::Change> change = watch.next(200ms)) {
    std::cout << "watch: " << change->key << (change->removed ? " removed" : " written") << "\n";
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> addresses;
  std::stringstream list(argc > 1 ? argv[1] : "127.0.0.1:7450,127.0.0.1:7460");
  for (std::string address; std::getline(list, address, ',');) addresses.push_back(address);
  try {
    pc::Client client(addresses, {.timeout = 5s, .client_name = "sample"});
    const pc::ServerInfo server = client.server_info();
    std::cout << std::boolalpha << "connected to Pando " << server.server_version << "\n";
    records(client);
    ranges(client);

    // A session reads from any replica, and still sees its own writes.
    pc::Session session = client.session();
    session.put("cpp-sample/fruit/plum", "blue");
    std::cout << "session: " << session.get("cpp-sample/fruit/plum")->value << "\n";
    std::cout << "removed: " << client.delete_range(pc::with_prefix("cpp-sample/")) << " records\n";
    client.put("", "no key");
  } catch (const pc::BadRequestError& error) {
    std::cout << "an error has a name and a message: " << error.name() << ", " << error.message() << "\n";
  } catch (const pc::Error& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
