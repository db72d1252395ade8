// Runs a libFuzzer target without libFuzzer: first every corpus file, then seeded random and
// mutated inputs until the time is up. It has no coverage feedback. It is the quick check of ./dev
// test; ./dev fuzz runs libFuzzer itself.
//
// Input n of seed s depends only on (s, n) and the corpus, so the command that a crash prints
// replays it.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" __attribute__((weak)) int LLVMFuzzerInitialize(int* argc, char*** argv);
// NOLINTNEXTLINE(bugprone-reserved-identifier): the sanitizers' own name
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

namespace {

constexpr size_t kMaxInputBytes = 64 * 1024;

struct Options {
  uint64_t seed = 0;
  uint64_t first = 0;
  uint64_t runs = UINT64_MAX;
  double seconds = 3;
  std::string corpus;
};

// The text that the crash handlers print; written before each input runs.
char replay[512];
const char* program = "";

void PrintReplay() {
  ssize_t ignored = write(STDERR_FILENO, replay, strlen(replay));
  (void)ignored;
}

void OnFatalSignal(int number) {
  PrintReplay();
  signal(number, SIG_DFL);
  raise(number);
}

Options Parse(int argc, char** argv) {
  Options options;
  options.seed = std::random_device{}();
  for (int i = 1; i < argc; ++i) {
    std::string_view arg = argv[i];
    size_t equals = arg.find('=');
    std::string value(equals == std::string_view::npos ? "" : arg.substr(equals + 1));
    std::string_view name = arg.substr(0, equals);
    if (name == "--seed")
      options.seed = std::stoull(value);
    else if (name == "--first")
      options.first = std::stoull(value);
    else if (name == "--runs")
      options.runs = std::stoull(value);
    else if (name == "--seconds")
      options.seconds = std::stod(value);
    else if (name == "--corpus")
      options.corpus = value;
    else {
      fprintf(stderr, "usage: %s [--corpus=DIR] [--seconds=S] [--seed=N] [--first=N] [--runs=N]\n", argv[0]);
      exit(2);
    }
  }
  return options;
}

// Sorted by name, so that an input depends only on the contents of the corpus.
std::vector<std::string> LoadCorpus(const std::string& directory) {
  std::vector<std::filesystem::path> paths;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    if (entry.is_regular_file()) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> inputs;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return inputs;
}

std::string RandomBytes(std::mt19937_64& random, size_t bytes) {
  std::string out(bytes, '\0');
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

void Mutate(std::mt19937_64& random, const std::vector<std::string>& corpus, std::string* input) {
  static constexpr uint64_t kEdges[] = {0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0xffffffff, UINT64_MAX};
  size_t at = input->empty() ? 0 : random() % input->size();
  switch (random() % 6) {
    case 0:
      if (!input->empty()) (*input)[at] = static_cast<char>((*input)[at] ^ (1 << (random() % 8)));
      break;
    case 1: {  // a length or count field at an edge of its range
      uint64_t edge = kEdges[random() % std::size(kEdges)];
      size_t bytes = size_t{1} << (random() % 4);
      if (input->size() >= bytes) std::memcpy(&(*input)[std::min(at, input->size() - bytes)], &edge, bytes);
      break;
    }
    case 2: input->resize(at); break;
    case 3: input->insert(at, RandomBytes(random, 1 + random() % 16)); break;
    case 4: input->erase(at, 1 + random() % 16); break;
    default: {  // the tail of another input
      if (corpus.empty()) break;
      const std::string& other = corpus[random() % corpus.size()];
      if (!other.empty()) *input = input->substr(0, at) + other.substr(random() % other.size());
      break;
    }
  }
}

std::string MakeInput(uint64_t seed, uint64_t number, const std::vector<std::string>& corpus) {
  if (number < corpus.size()) return corpus[number];
  std::seed_seq sequence{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), static_cast<uint32_t>(number),
                         static_cast<uint32_t>(number >> 32)};
  std::mt19937_64 random(sequence);
  bool from_scratch = corpus.empty() || random() % 8 == 0;
  std::string input = from_scratch ? RandomBytes(random, random() % 512) : corpus[random() % corpus.size()];
  size_t mutations = from_scratch ? 0 : 1 + random() % 8;
  for (size_t i = 0; i < mutations; ++i) Mutate(random, corpus, &input);
  if (input.size() > kMaxInputBytes) input.resize(kMaxInputBytes);
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  Options options = Parse(argc, argv);
  program = argv[0];
  if (LLVMFuzzerInitialize) LLVMFuzzerInitialize(&argc, &argv);
  for (int number : {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE}) signal(number, OnFatalSignal);
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(PrintReplay);

  std::vector<std::string> corpus = LoadCorpus(options.corpus);
  auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(options.seconds);
  uint64_t done = 0;
  for (; done < options.runs; ++done) {
    uint64_t number = options.first + done;
    if (number >= corpus.size() && std::chrono::steady_clock::now() > deadline) break;
    snprintf(replay, sizeof(replay), "\nreplay: %s --corpus=%s --seed=%llu --first=%llu --runs=1\n", program,
             options.corpus.c_str(), static_cast<unsigned long long>(options.seed),
             static_cast<unsigned long long>(number));
    std::string input = MakeInput(options.seed, number, corpus);
    // A heap copy of the exact size, so that AddressSanitizer detects a read one byte past the end.
    std::vector<uint8_t> exact(input.begin(), input.end());
    exact.shrink_to_fit();
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
  }
  printf("%llu inputs (%zu from the corpus), seed %llu\n", static_cast<unsigned long long>(done), corpus.size(),
         static_cast<unsigned long long>(options.seed));
  return 0;
}
