// The one time control, under the run's views: pause the view or go live, step, scrub, and the range in view as a
// window on the whole run.
#pragma once

#include "ui/panel.h"

#include <QWidget>

class QPushButton;
class QToolButton;

namespace spartan {

// The whole run as a track: generated tokens as a quiet profile, the range in view brighter, the cursor as a line.
// Press or drag scrubs; Left and Right step; the wheel zooms at the pointer.
class TimeTrack : public QWidget {
    Q_OBJECT
public:
    explicit TimeTrack(const ViewContext& context, QWidget* parent = nullptr);
    QSize sizeHint() const override;
    int64_t usAt(double x) const;
    double xAt(int64_t us) const;

protected:
    void paintEvent(QPaintEvent*) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mouseDoubleClickEvent(QMouseEvent* event) override;
    void wheelEvent(QWheelEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;

private:
    ViewContext context_;
};

class TimeBar : public QWidget {
    Q_OBJECT
public:
    explicit TimeBar(const ViewContext& context, QWidget* parent = nullptr);
    void refresh(bool running);
    void restyle();
    // "Paused at 12.480 s · recording continues · +3,120 steps", or where the live view is.
    const QString& words() const { return words_->text(); }
    QPushButton& pauseButton() { return *pause_; }
    TimeTrack& track() { return *track_; }

protected:
    void paintEvent(QPaintEvent*) override;

private:
    ViewContext context_;
    QPushButton* pause_;
    QToolButton *back_, *forward_, *fit_;
    TimeTrack* track_;
    FigureLabel* words_;
};

}  // namespace spartan
