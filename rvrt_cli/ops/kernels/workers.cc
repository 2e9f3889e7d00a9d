// SPDX-License-Identifier: Apache-2.0
// The threads that share the work of `parallel` and `parallel_shared`: see kernel.h.
//
// OpenMP's would do, but for the time to wake them: 40 to 80 us with sleeping threads, which is as long as a small kernel
// takes, and OpenMP has a team for each thread of MindSpore that calls kernels, so that threads that spin take the cores from
// each other. Here all callers share one team, whose threads spin for a moment after each call and then sleep. A caller
// takes ranges of the work itself and never waits for a worker that has not begun: on a busy machine the call is as fast
// as with fewer threads. There, spinning takes time from other processes in vain: whoever spins without success spins half
// as long the next time.
#include "kernel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>


namespace rvrt {
namespace {

using Nanoseconds = std::chrono::nanoseconds;
constexpr Nanoseconds kLongestSpin{100'000};  // between the kernels of a training step lie 50 to 200 us
constexpr Nanoseconds kShortestSpin{2'000};
constexpr int kPauses = 32;  // between two looks at the clock

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until `done` or for a while, which adapts. Whether it is done.
class Spin {
 public:
  template <class Done>
  bool until(Done done) {
    const auto end = std::chrono::steady_clock::now() + length_;
    do {
      for (int i = 0; i < kPauses; ++i) {
        if (done()) {
          length_ = std::min(2 * length_, kLongestSpin);
          return true;
        }
        pause();
      }
    } while (std::chrono::steady_clock::now() < end);
    length_ = std::max(length_ / 2, kShortestSpin);
    return false;
  }

 private:
  Nanoseconds length_ = kLongestSpin;
};

// Work in `ranges` of tasks, each of which one thread takes as a whole.
struct Work {
  Body body;
  const void* job;
  int64_t tasks, ranges;
  int threads;
  bool shared;  // a range has the number of its thread, and otherwise its own

  void run(int64_t range, int thread) const {
    body(job, Span{tasks * range / ranges, tasks * (range + 1) / ranges, shared ? thread : static_cast<int>(range),
                   threads});
  }
};

class Team {
 public:
  // Runs all ranges; one call at a time.
  void run(const Work& work) {
    const std::lock_guard<std::mutex> guard(calls_);
    start_workers(work.threads - 1);
    work_ = work;
    next_.store(0, std::memory_order_relaxed);
    inside_.store(kOpen);
    epoch_.fetch_add(1);
    if (sleepers_.load() > 0) {
      {
        const std::lock_guard<std::mutex> sleep(sleep_);
      }  // none is between its last look at the epoch and its sleep
      wake_.notify_all();
    }
    take_ranges(0);
    inside_.fetch_and(~kOpen);
    const auto left = [this] { return inside_.load(std::memory_order_acquire) == 0; };
    if (caller_.until(left)) return;
    std::unique_lock<std::mutex> lock(end_);
    waiting_.store(true);
    ended_.wait(lock, [this] { return inside_.load() == 0; });
    waiting_.store(false);
  }

 private:
  static constexpr uint32_t kOpen = 1u << 31;

  // As many as the system grants: without them the caller takes all ranges.
  void start_workers(int count) {
    try {
      for (; started_ < count; ++started_) std::thread(&Team::serve, this, started_ + 1).detach();
    } catch (const std::system_error&) {
    }
  }

  void take_ranges(int thread) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < work_.ranges;) work_.run(i, thread);
  }

  // Between `enter` and `leave` the work stays as it is; it may be entered until its caller has found no more ranges.
  bool enter() {
    uint32_t inside = inside_.load();
    while (inside & kOpen)
      if (inside_.compare_exchange_weak(inside, inside + 1)) return true;
    return false;
  }
  void leave() {
    if (inside_.fetch_sub(1) != 1 || !waiting_.load()) return;
    {
      const std::lock_guard<std::mutex> end(end_);
    }  // the caller is not between its last look and its sleep
    ended_.notify_one();
  }

  void serve(int thread) {
    uint32_t seen = epoch_.load() - 1;  // the call that started this thread may still be open
    Spin spin;
    while (true) {
      await_change(seen, spin);
      seen = epoch_.load();
      if (!enter()) continue;
      if (thread < work_.threads) take_ranges(thread);
      leave();
    }
  }

  void await_change(uint32_t seen, Spin& spin) {
    if (spin.until([this, seen] { return epoch_.load(std::memory_order_acquire) != seen; })) return;
    std::unique_lock<std::mutex> lock(sleep_);
    ++sleepers_;
    wake_.wait(lock, [&] { return epoch_.load() != seen; });
    --sleepers_;
  }

  std::mutex calls_, sleep_, end_;
  std::condition_variable wake_, ended_;
  Spin caller_;
  int started_ = 0;  // workers
  Work work_{};
  std::atomic<int64_t> next_{0};     // range
  std::atomic<uint32_t> inside_{0};  // workers that have entered, and kOpen
  std::atomic<uint32_t> epoch_{0};   // of calls
  std::atomic<int> sleepers_{0};
  std::atomic<bool> waiting_{false};  // the caller, for workers inside
};

Team& team() {
  static auto* const shared = new Team;  // never destroyed: its threads outlive static objects
  return *shared;
}

int run(const Work& work) {
  team().run(work);
  return kOk;
}

}  // namespace

int parallel_width(int64_t tasks, int workers) {
  int64_t n = std::min<int64_t>(tasks, threads());
  if (workers > 0) n = std::min<int64_t>(n, workers);
  return static_cast<int>(std::max<int64_t>(n, 1));
}

int parallel(int64_t tasks, Body body, const void* job, int workers) {
  if (tasks <= 0) return kOk;
  const int n = parallel_width(tasks, workers);
  if (n > 1) return run({body, job, tasks, n, n, false});
  body(job, Span{0, tasks, 0, 1});
  return kOk;
}

int parallel_shared(int64_t tasks, Body body, const void* job) {
  const int n = parallel_width(tasks);
  if (n == 1) return parallel(tasks, body, job);
  return run({body, job, tasks, std::min<int64_t>(tasks, 8 * static_cast<int64_t>(n)), n, true});
}

}  // namespace rvrt
