#include "ui/views/time_bar.h"

#include "ui/run_model.h"
#include "ui/text.h"
#include "ui/time_controller.h"

#include <QHBoxLayout>
#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QPushButton>
#include <QToolButton>
#include <QWheelEvent>

#include <algorithm>
#include <cmath>

namespace spartan {

TimeTrack::TimeTrack(const ViewContext& context, QWidget* parent) : QWidget(parent), context_(context) {
    setFocusPolicy(Qt::StrongFocus);
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Preferred);
    setAccessibleName(tr("Time of the run"));
    setAccessibleDescription(tr("Press or drag to move the cursor, Left and Right to step, the wheel to zoom."));
    setToolTip(
        plainTooltip(tr("The whole run: generated tokens over time, the range in view framed, the cursor.\n"
                        "Drag to scrub, wheel to zoom at the pointer, double click for the whole run.")));
}

QSize TimeTrack::sizeHint() const { return {px(240), px(22)}; }

int64_t TimeTrack::usAt(double x) const {
    const RunModel& model = context_.model;
    const double share = std::clamp(x / std::max(1.0, double(width())), 0.0, 1.0);
    return model.startUs() + std::llround(share * double(std::max<int64_t>(1, model.endUs() - model.startUs())));
}

double TimeTrack::xAt(int64_t us) const {
    const RunModel& model = context_.model;
    const double span = double(std::max<int64_t>(1, model.endUs() - model.startUs()));
    return std::clamp(double(us - model.startUs()) / span, 0.0, 1.0) * width();
}

void TimeTrack::paintEvent(QPaintEvent*) {
    QPainter p(this);
    const Colors& c = colorsOf(this);
    const QRectF track(0, px(2), width(), height() - px(4));
    p.fillRect(track, c.field);
    const RunModel& model = context_.model;
    if (model.empty()) return;
    const TimeController& time = context_.time;
    const double from = xAt(time.rangeStartUs()), to = xAt(time.rangeEndUs());
    p.fillRect(QRectF(from, track.top(), std::max(1.0, to - from), track.height()), c.selection);
    const auto bins = model.stepBins(model.startUs(), model.endUs(), size_t(std::max(20, width() / 4)));
    // Tokens a bin, not a second: the newest bin is a sliver, whose rate would press all others flat.
    double most = 0;
    for (const StepBin& bin : bins) most = std::max(most, double(bin.emitted_tokens));
    for (const StepBin& bin : bins) {
        if (!(most > 0)) break;
        const double x = xAt(bin.t0_us), wide = std::max(1.0, xAt(bin.t1_us) - x),
                     high = track.height() * double(bin.emitted_tokens) / most;
        p.fillRect(QRectF(x, track.bottom() - high, wide, high), blend(c.field, c.decode, 0.55));
    }
    p.setPen(QPen(c.border, 1));
    p.setBrush(Qt::NoBrush);
    p.drawRect(QRectF(from, track.top(), std::max(1.0, to - from - 1), track.height() - 1));
    p.fillRect(QRectF(std::clamp(xAt(time.cursorUs()) - 1, 0.0, width() - 2.0), 0, 2, height()), c.cursor);
    if (hasFocus()) {
        p.setPen(QPen(c.accent, 1));
        p.drawRect(rect().adjusted(0, 0, -1, -1));
    }
}

void TimeTrack::mousePressEvent(QMouseEvent* event) {
    if (event->button() != Qt::LeftButton || context_.model.empty()) return;
    setFocus();
    context_.time.setCursor(usAt(event->position().x()), context_.model);
}

void TimeTrack::mouseMoveEvent(QMouseEvent* event) {
    if ((event->buttons() & Qt::LeftButton) && !context_.model.empty())
        context_.time.setCursor(usAt(event->position().x()), context_.model);
}

void TimeTrack::mouseDoubleClickEvent(QMouseEvent*) {
    if (!context_.model.empty()) context_.time.fit(context_.model);
}

void TimeTrack::wheelEvent(QWheelEvent* event) {
    if (context_.model.empty()) return;
    context_.time.zoom(std::pow(0.8, double(event->angleDelta().y()) / 120.0), usAt(event->position().x()));
    event->accept();
}

void TimeTrack::keyPressEvent(QKeyEvent* event) {
    const int by = event->key() == Qt::Key_Left ? -1 : event->key() == Qt::Key_Right ? 1 : 0;
    if (by == 0) return QWidget::keyPressEvent(event);
    context_.time.stepBy(by, context_.model);
}

TimeBar::TimeBar(const ViewContext& context, QWidget* parent)
    : QWidget(parent),
      context_(context),
      pause_(new QPushButton(tr("Pause view"))),
      back_(new QToolButton),
      forward_(new QToolButton),
      fit_(new QToolButton),
      track_(new TimeTrack(context)),
      words_(new FigureLabel) {
    auto* line = new QHBoxLayout(this);
    pause_->setProperty("small", true);
    connect(pause_, &QPushButton::clicked, this, [this] { context_.time.togglePause(); });
    const auto tool = [&](QToolButton* b, const QString& text, const QString& name, auto action) {
        b->setText(text);
        b->setProperty("small", true);
        b->setAccessibleName(name);
        b->setToolTip(plainTooltip(name));
        connect(b, &QToolButton::clicked, this, action);
    };
    tool(back_, QStringLiteral("◂"), tr("Previous step ( , )"), [this] { context_.time.stepBy(-1, context_.model); });
    tool(forward_, QStringLiteral("▸"), tr("Next step ( . )"), [this] { context_.time.stepBy(1, context_.model); });
    tool(fit_, tr("Whole run"), tr("Show the whole run (F)"), [this] { context_.time.fit(context_.model); });
    words_->setSize(11.5);
    words_->setAlignment(Qt::AlignRight | Qt::AlignVCenter);
    for (QWidget* w : std::initializer_list<QWidget*>{pause_, back_, forward_, track_, fit_, words_})
        line->addWidget(w, w == track_ ? 1 : 0);
    restyle();
}

void TimeBar::restyle() {
    layout()->setContentsMargins(px(8), px(3), px(12), px(3));
    layout()->setSpacing(px(6));
    setFixedHeight(px(30));
    pause_->setFixedWidth(px(88));
    words_->setFixedWidth(px(300));
    update();
}

void TimeBar::paintEvent(QPaintEvent*) {
    const Colors& c = colorsOf(this);
    QPainter p(this);
    p.fillRect(rect(), c.window);
    // A paused view must not be taken for the present.
    if (!context_.time.live()) p.fillRect(QRect(0, 0, px(3), height()), c.accent);
}

void TimeBar::refresh(bool running) {
    const RunModel& model = context_.model;
    const TimeController& time = context_.time;
    setVisible(!model.empty());
    if (model.empty()) return;
    pause_->setText(time.live() ? tr("Pause view") : tr("Go live"));
    pause_->setToolTip(plainTooltip(time.live() ? tr("Freezes the view, not the run: recording goes on (Space)")
                                                : tr("Follows the newest step again (Home)")));
    back_->setEnabled(time.cursorStep() > model.steps().front().step);
    forward_->setEnabled(time.cursorStep() < model.lastStep());
    const QString at = secondsText(double(time.cursorUs()) / 1e6);
    if (!time.live())
        words_->setText(running ? tr("Paused at %1 · recording continues · +%2")
                                      .arg(at, counted(time.stepsSincePause(model), tr("step"), tr("steps")))
                                : tr("Paused at %1 · the run has ended").arg(at));
    else
        words_->setText(running ? tr("Live at %1").arg(at) : tr("End of the run at %1").arg(at));
    words_->setMuted(time.live());
    track_->update();
    update();
}

}  // namespace spartan
