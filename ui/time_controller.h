// The one cursor, range and live/paused state of all views. Pausing freezes the view; recording goes on.
#pragma once

#include <QObject>

#include <cstdint>
#include <optional>
#include <utility>

namespace spartan {

class RunModel;

class TimeController : public QObject {
    Q_OBJECT
public:
    explicit TimeController(QObject* parent = nullptr);

    bool live() const { return live_; }
    int64_t cursorUs() const { return cursor_us_; }      // the run's clock; in live mode the newest step's end
    int64_t cursorStep() const { return cursor_step_; }  // the step that the cursor lies in; -1 without steps
    // What time plots show: in live mode the whole run (or the trailing window), else what was zoomed to.
    int64_t rangeStartUs() const { return range_start_us_; }
    int64_t rangeEndUs() const { return range_end_us_; }
    // A range that was dragged for a Δ readout.
    std::optional<std::pair<int64_t, int64_t>> selection() const { return selection_; }
    uint64_t version() const { return version_; }  // rises with every change of state (not with live time passing)
    int64_t stepsSincePause(const RunModel& model) const;

    // Once a tick, before the views: follows the newest step when live.
    void follow(const RunModel& model);
    void reset();  // a new run: live, whole range

    void pause();
    void goLive();
    void togglePause() { live_ ? pause() : goLive(); }
    void setCursor(int64_t us, const RunModel& model);  // pauses
    void setCursorStep(int64_t step, const RunModel& model);
    void stepBy(int64_t steps, const RunModel& model);
    void setRange(int64_t start_us, int64_t end_us);  // pauses
    void zoom(double factor, int64_t center_us);      // factor < 1 zooms in
    void pan(int64_t by_us);
    void fit(const RunModel& model);  // the whole run; stays paused
    void setSelection(std::optional<std::pair<int64_t, int64_t>> selection);
    void setTrailingWindow(int64_t us);  // 0: the whole run

signals:
    void changed();

private:
    void touch();

    bool live_ = true;
    int64_t cursor_us_ = 0, cursor_step_ = -1;
    int64_t range_start_us_ = 0, range_end_us_ = 1'000'000;
    int64_t window_us_ = 0;
    std::optional<std::pair<int64_t, int64_t>> selection_;
    uint64_t version_ = 0;
};

}  // namespace spartan
