#include "ui/time_controller.h"

#include "ui/run_model.h"

#include <algorithm>

namespace spartan {

namespace {
constexpr int64_t kShortestRangeUs = 1'000;
}

TimeController::TimeController(QObject* parent) : QObject(parent) {}

void TimeController::touch() {
    ++version_;
    emit changed();
}

void TimeController::follow(const RunModel& model) {
    if (!live_) return;
    cursor_us_ = model.endUs();
    cursor_step_ = model.lastStep();
    const int64_t end = std::max(model.endUs(), model.startUs() + 1'000'000);
    range_end_us_ = end;
    range_start_us_ = window_us_ > 0 ? std::max(model.startUs(), end - window_us_) : model.startUs();
}

void TimeController::reset() {
    live_ = true;
    cursor_us_ = 0;
    cursor_step_ = -1;
    range_start_us_ = 0;
    range_end_us_ = 1'000'000;
    selection_.reset();
    touch();
}

int64_t TimeController::stepsSincePause(const RunModel& model) const {
    return live_ ? 0 : std::max<int64_t>(0, model.lastStep() - cursor_step_);
}

void TimeController::pause() {
    if (!live_) return;
    live_ = false;
    touch();
}

void TimeController::goLive() {
    if (live_) return;
    live_ = true;
    selection_.reset();
    touch();
}

void TimeController::setCursor(int64_t us, const RunModel& model) {
    live_ = false;
    cursor_us_ = std::clamp(us, model.startUs(), std::max(model.startUs(), model.endUs()));
    cursor_step_ = model.stepAt(cursor_us_);
    touch();
}

void TimeController::setCursorStep(int64_t step, const RunModel& model) {
    const StepSummary* found = model.summary(step);
    if (!found) return;
    live_ = false;
    cursor_step_ = step;
    cursor_us_ = found->end_us;
    if (cursor_us_ < range_start_us_ || cursor_us_ > range_end_us_) {
        const int64_t width = range_end_us_ - range_start_us_;
        range_start_us_ = std::max(model.startUs(), cursor_us_ - width / 2);
        range_end_us_ = range_start_us_ + width;
    }
    touch();
}

void TimeController::stepBy(int64_t steps, const RunModel& model) {
    if (model.steps().empty()) return;
    const int64_t first = model.steps().front().step;
    setCursorStep(std::clamp(cursor_step_ + steps, first, model.lastStep()), model);
}

void TimeController::setRange(int64_t start_us, int64_t end_us) {
    live_ = false;
    range_start_us_ = std::max<int64_t>(0, std::min(start_us, end_us));
    range_end_us_ = std::max(std::max(start_us, end_us), range_start_us_ + kShortestRangeUs);
    touch();
}

void TimeController::zoom(double factor, int64_t center_us) {
    const double before = double(center_us - range_start_us_), after = double(range_end_us_ - center_us);
    setRange(center_us - int64_t(before * factor), center_us + int64_t(after * factor));
}

void TimeController::pan(int64_t by_us) {
    const int64_t by = std::max(by_us, -range_start_us_);
    setRange(range_start_us_ + by, range_end_us_ + by);
}

void TimeController::fit(const RunModel& model) {
    setRange(model.startUs(), std::max(model.endUs(), model.startUs() + 1'000'000));
}

void TimeController::setSelection(std::optional<std::pair<int64_t, int64_t>> selection) {
    if (selection && selection->first > selection->second) std::swap(selection->first, selection->second);
    selection_ = selection;
    touch();
}

void TimeController::setTrailingWindow(int64_t us) {
    window_us_ = std::max<int64_t>(0, us);
    touch();
}

}  // namespace spartan
