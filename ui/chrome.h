// Small parts of the window's frame: model chip, message banner, drop overlay.
#pragma once

#include <QString>
#include <QToolButton>
#include <QWidget>

#include <functional>

class QHBoxLayout;
class QLabel;
class QTimer;

namespace spartan {

// Name of the base on the left, what it is on the right; a press opens its menu. A line at the foot shows loading.
class ModelChip : public QToolButton {
    Q_OBJECT
public:
    explicit ModelChip(QWidget* parent = nullptr);
    void set(const QString& name, const QString& facts, double progress);  // progress < 0: none

protected:
    void paintEvent(QPaintEvent*) override;
    QSize sizeHint() const override;

private:
    QString name_, facts_;
    double progress_ = -1;
};

// One line below the top bar that says what happened, with what can be done about it. Never in the way of work.
class Banner : public QWidget {
    Q_OBJECT
public:
    explicit Banner(QWidget* parent = nullptr);
    void say(const QString& text, bool isError);  // plain words go by themselves, errors stay until closed
    void ask(const QString& text, const QString& yes, std::function<void()> action, const QString& no = {},
             std::function<void()> other = {});
    void askAfterError(const QString& text, const QString& yes, std::function<void()> action);
    QString text() const;
    void restyle();

protected:
    void paintEvent(QPaintEvent*) override;

private:
    void clear();
    QLabel* label_;
    QHBoxLayout* box_;
    QTimer* timer_;
    bool error_ = false;
};

// Over the whole window while something is dragged: what it will take, or why not.
class DropOverlay : public QWidget {
    Q_OBJECT
public:
    explicit DropOverlay(QWidget* parent);
    void announce(const QString& words, bool takes);
    const QString& words() const { return words_; }
    bool takes() const { return takes_; }

protected:
    void paintEvent(QPaintEvent*) override;

private:
    QString words_;
    bool takes_ = false;
};

}  // namespace spartan
