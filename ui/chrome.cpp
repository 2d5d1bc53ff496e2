#include "ui/chrome.h"

#include "ui/panel.h"
#include "ui/text.h"
#include "ui/theme.h"

#include <QFontMetricsF>
#include <QHBoxLayout>
#include <QLabel>
#include <QPainter>
#include <QPushButton>
#include <QTimer>

namespace spartan {

ModelChip::ModelChip(QWidget* parent) : QToolButton(parent) {
    setPopupMode(QToolButton::InstantPopup);
    setFocusPolicy(Qt::TabFocus);
    setAccessibleName(tr("Base model"));
    setSizePolicy(QSizePolicy::Preferred, QSizePolicy::Fixed);
}

void ModelChip::set(const QString& name, const QString& facts, double progress) {
    if (name == name_ && facts == facts_ && progress == progress_) return;
    name_ = name;
    facts_ = facts;
    progress_ = progress;
    setAccessibleDescription(name + QStringLiteral(", ") + facts);
    setToolTip(plainTooltip(name + QLatin1Char('\n') + facts));
    update();
}

QSize ModelChip::sizeHint() const { return {px(372), px(30)}; }

void ModelChip::paintEvent(QPaintEvent*) {
    const Colors& c = colorsOf(this);
    QPainter p(this);
    p.setRenderHint(QPainter::Antialiasing);
    const QRectF r = QRectF(rect()).adjusted(0.5, 0.5, -0.5, -0.5);
    p.setPen(QPen(hasFocus() ? c.accent : underMouse() ? c.muted : c.border, 1));
    p.setBrush(c.panel);
    p.drawRoundedRect(r, px(4), px(4));
    if (progress_ >= 0) {
        p.setPen(Qt::NoPen);
        p.setBrush(c.accent);
        p.drawRect(QRectF(px(4), height() - px(3), (width() - px(8)) * progress_, px(2)));
    }
    const QRectF line = r.adjusted(px(10), 0, -px(10), 0);
    p.setFont(uiFont(12.5, 600));
    p.setPen(c.text);
    const QFontMetricsF bold(p.font());
    const QString name = bold.elidedText(name_, Qt::ElideMiddle, line.width() * (facts_.isEmpty() ? 0.9 : 0.62));
    drawFigures(p, line, Qt::AlignLeft | Qt::AlignVCenter, name);
    p.setFont(uiFont(11.5));
    p.setPen(c.muted);
    const double rest = line.width() - figuresWidth(bold, name) - px(12);
    drawFigures(p, line, Qt::AlignRight | Qt::AlignVCenter,
                fitFacts(QFontMetricsF(p.font()), facts_, rest - px(14)) + QStringLiteral(" ▾"));
}

Banner::Banner(QWidget* parent)
    : QWidget(parent), label_(new QLabel), box_(new QHBoxLayout(this)), timer_(new QTimer(this)) {
    label_->setTextFormat(Qt::PlainText);
    label_->setTextInteractionFlags(Qt::TextSelectableByMouse);
    label_->setWordWrap(true);
    box_->addWidget(label_, 1);
    timer_->setSingleShot(true);
    connect(timer_, &QTimer::timeout, this, &QWidget::hide);
    hide();
}

void Banner::clear() {
    timer_->stop();
    while (box_->count() > 1) {
        QLayoutItem* item = box_->takeAt(1);
        if (item->widget()) item->widget()->deleteLater();
        delete item;
    }
}

QString Banner::text() const { return isHidden() ? QString() : label_->text(); }

void Banner::say(const QString& text, bool isError) {
    // A question or an error that is still open is not pushed away by small talk.
    if (!isError && !isHidden() && !timer_->isActive()) return;
    clear();
    error_ = isError;
    label_->setText(text);
    auto* close = new QToolButton;
    close->setText(QStringLiteral("×"));
    close->setAccessibleName(tr("Close the message"));
    connect(close, &QToolButton::clicked, this, &QWidget::hide);
    box_->addWidget(close);
    if (!isError) timer_->start(6'000);
    restyle();
    show();
}

void Banner::ask(const QString& text, const QString& yes, std::function<void()> action, const QString& no,
                 std::function<void()> other) {
    clear();
    error_ = false;
    label_->setText(text);
    const auto add = [&](const QString& words, std::function<void()> then) {
        auto* b = new QPushButton(words);
        connect(b, &QPushButton::clicked, this, [this, then = std::move(then)] {
            hide();
            if (then) then();
        });
        box_->addWidget(b);
    };
    add(yes, std::move(action));
    add(no.isEmpty() ? tr("Dismiss") : no, std::move(other));
    restyle();
    show();
}

void Banner::askAfterError(const QString& text, const QString& yes, std::function<void()> action) {
    ask(text, yes, std::move(action));
    error_ = true;
    restyle();
}

void Banner::restyle() {
    box_->setContentsMargins(px(14), px(4), px(8), px(4));
    box_->setSpacing(px(8));
    const Colors& c = colorsOf(this);
    QPalette p = label_->palette();
    p.setColor(QPalette::WindowText, error_ ? c.error : c.text);
    label_->setPalette(p);
    label_->setFont(uiFont(12));
    update();
}

void Banner::paintEvent(QPaintEvent*) {
    const Colors& c = colorsOf(this);
    QPainter p(this);
    p.fillRect(rect(), c.bar);
    p.fillRect(QRect(0, 0, px(3), height()), error_ ? c.error : c.accent);
}

DropOverlay::DropOverlay(QWidget* parent) : QWidget(parent) {
    setAttribute(Qt::WA_TransparentForMouseEvents);
    hide();
}

void DropOverlay::announce(const QString& words, bool takes) {
    words_ = words;
    takes_ = takes;
    setGeometry(parentWidget()->rect());
    raise();
    show();
    update();
}

void DropOverlay::paintEvent(QPaintEvent*) {
    const Colors& c = colorsOf(this);
    QPainter p(this);
    p.setRenderHint(QPainter::Antialiasing);
    QColor veil = c.window;
    veil.setAlphaF(0.82f);
    p.fillRect(rect(), veil);
    const QColor line = takes_ ? c.accent : c.error;
    p.setPen(QPen(line, px(2)));
    p.setBrush(takes_ ? QBrush(c.selection) : Qt::NoBrush);
    const QRectF r = QRectF(rect()).adjusted(px(24), px(24), -px(24), -px(24));
    p.drawRoundedRect(r, px(8), px(8));
    p.setPen(takes_ ? c.text : c.error);
    p.setFont(uiFont(20, 600));
    p.drawText(r.adjusted(px(20), 0, -px(20), 0), Qt::AlignCenter | Qt::TextWordWrap,
               (takes_ ? QStringLiteral("✓  ") : QStringLiteral("✗  ")) + words_);
}

}  // namespace spartan
