#include "ui/panel.h"

#include "ui/text.h"

#include <QContextMenuEvent>
#include <QEvent>
#include <QFontMetricsF>
#include <QHBoxLayout>
#include <QHelpEvent>
#include <QLabel>
#include <QMenu>
#include <QPainter>
#include <QPainterPath>
#include <QPushButton>
#include <QStackedLayout>
#include <QToolTip>
#include <QVBoxLayout>

#include <cmath>
#include <utility>

namespace spartan {

EmptyState::EmptyState(QWidget* parent)
    : QWidget(parent), headline_(new QLabel), hint_(new QLabel), actions_(new QHBoxLayout) {
    auto* box = new QVBoxLayout(this);
    box->addStretch();
    for (QLabel* label : {headline_, hint_}) {
        label->setTextFormat(Qt::PlainText);
        label->setAlignment(Qt::AlignCenter);
        label->setWordWrap(true);
        box->addWidget(label);
    }
    actions_->addStretch(1);
    actions_->addStretch(1);
    box->addLayout(actions_);
    box->addStretch();
    restyle();
}

void EmptyState::set(const QString& headline, const QString& hint) {
    headline_->setText(headline);
    hint_->setText(hint);
    hint_->setVisible(!hint.isEmpty());
}

void EmptyState::addAction(const QString& text, std::function<void()> action) {
    auto* button = new QPushButton(text);
    button->setProperty("link", true);
    connect(button, &QPushButton::clicked, this, [action = std::move(action)] { action(); });
    actions_->insertWidget(actions_->count() - 1, button);
}

void EmptyState::clearActions() {
    while (actions_->count() > 2) {
        QLayoutItem* item = actions_->takeAt(1);
        if (item->widget()) item->widget()->deleteLater();
        delete item;
    }
}

void EmptyState::restyle() {
    const Colors& c = colorsOf(this);
    layout()->setContentsMargins(px(28), px(20), px(28), px(20));
    const auto paint = [](QLabel* label, const QColor& color, const QFont& font) {
        QPalette p = label->palette();
        p.setColor(QPalette::WindowText, color);
        label->setPalette(p);
        label->setFont(font);
    };
    paint(headline_, c.muted, uiFont(13, 500));
    paint(hint_, c.faint, uiFont(12));
}

// Beside each other where there is room, else below each other.
void EmptyState::resizeEvent(QResizeEvent*) {
    int wanted = px(56);
    for (int i = 0; i < actions_->count(); ++i)
        if (const QWidget* w = actions_->itemAt(i)->widget()) wanted += w->sizeHint().width() + actions_->spacing();
    const bool beside = wanted <= width();
    actions_->setDirection(beside ? QBoxLayout::LeftToRight : QBoxLayout::TopToBottom);
    for (const int end : {0, actions_->count() - 1}) actions_->setStretch(end, beside ? 1 : 0);
    for (int i = 0; i < actions_->count(); ++i)
        if (QWidget* w = actions_->itemAt(i)->widget())
            actions_->setAlignment(w, beside ? Qt::Alignment() : Qt::AlignHCenter);
}

void EmptyState::changeEvent(QEvent* event) {
    // Only the application's changes: restyle() itself changes the labels' palettes, not this widget's.
    if (event->type() == QEvent::PaletteChange || event->type() == QEvent::FontChange) restyle();
    QWidget::changeEvent(event);
}

void EmptyState::paintEvent(QPaintEvent*) {
    QPainter p(this);
    p.setRenderHint(QPainter::Antialiasing);
    QPen pen(colorsOf(this).border, 1, Qt::DashLine);
    pen.setDashPattern({4, 3});
    p.setPen(pen);
    p.drawRoundedRect(QRectF(rect()).adjusted(px(10) + 0.5, px(10) + 0.5, -px(10) - 0.5, -px(10) - 0.5), px(5), px(5));
}

// The header's text is painted by the view itself, behind the controls.
Panel::Panel(const QString& id, const QString& title, QWidget* parent)
    : QWidget(parent),
      id_(id),
      title_(title),
      header_(new QWidget(this)),
      controls_(new QHBoxLayout(header_)),
      outer_(new QVBoxLayout(this)),
      stack_(new QStackedLayout) {
    setAccessibleName(title);
    setObjectName(id);
    controls_->setContentsMargins(0, 0, 0, 0);
    controls_->addStretch();
    outer_->setContentsMargins(1, 1, 1, 1);
    outer_->setSpacing(0);
    outer_->addWidget(header_);
    outer_->addLayout(stack_, 1);
    setMinimumSize(px(140), px(80));
}

int Panel::headerHeight() const { return px(30); }

void Panel::setTitle(const QString& title) {
    if (title == title_) return;
    title_ = title;
    keepTitleClear();
    update(0, 0, width(), headerHeight() + 2);
}

// The title is painted: controls that want more room than there is must not cover it.
void Panel::keepTitleClear() {
    const double title = figuresWidth(QFontMetricsF(uiFont(12.5, 600)), title_);
    controls_->setContentsMargins(px(24) + int(std::ceil(std::min(title, double(px(150))))), 0, px(8), 0);
}

void Panel::setFacts(const QString& facts, const QString& tooltip) {
    header_->setToolTip(plainTooltip(tooltip.isEmpty() ? facts : tooltip));
    if (facts == facts_) return;
    facts_ = facts;
    setAccessibleDescription(facts);
    update(0, 0, width(), headerHeight() + 2);
}

void Panel::setBody(QWidget* body) {
    stack_->insertWidget(0, body);
    stack_->setCurrentIndex(0);
}

EmptyState* Panel::emptyState() {
    if (!empty_) {
        empty_ = new EmptyState(this);
        stack_->addWidget(empty_);
    }
    return empty_;
}

void Panel::showEmpty(bool empty) {
    if (empty) {
        stack_->setCurrentWidget(emptyState());
    } else {
        stack_->setCurrentIndex(0);
    }
}

bool Panel::showingEmpty() const { return empty_ && stack_->currentWidget() == empty_; }

void Panel::addExport(ExportTarget target) {
    target.widget->installEventFilter(this);
    exports_.push_back(std::move(target));
}

void Panel::restyle() {
    header_->setFixedHeight(headerHeight());
    keepTitleClear();
    controls_->setSpacing(px(6));
    setMinimumSize(px(140), px(80));
    styled_ = true;
    styleChanged();
    markDirty();
    update();
}

void Panel::changeEvent(QEvent* event) {
    const bool style = event->type() == QEvent::PaletteChange || event->type() == QEvent::FontChange ||
                       event->type() == QEvent::ApplicationFontChange;
    if (style && styled_) restyle();
    QWidget::changeEvent(event);
}

void Panel::showEvent(QShowEvent* event) {
    if (!styled_) restyle();
    markDirty();
    QWidget::showEvent(event);
}

void Panel::resizeEvent(QResizeEvent* event) {
    markDirty();
    QWidget::resizeEvent(event);
}

void Panel::paintEvent(QPaintEvent*) {
    const Colors& c = colorsOf(this);
    QPainter p(this);
    p.setRenderHint(QPainter::Antialiasing);
    const QRectF card = QRectF(rect()).adjusted(0.5, 0.5, -0.5, -0.5);
    p.setPen(QPen(c.border, 1));
    p.setBrush(c.panel);
    p.drawRoundedRect(card, px(3), px(3));
    p.setRenderHint(QPainter::Antialiasing, false);
    p.setPen(c.hairline);
    p.drawLine(1, headerHeight(), width() - 2, headerHeight());

    // Controls push the facts to the left; the facts give way to the title.
    double right = width() - px(12);
    for (int i = 0; i < controls_->count(); ++i)
        if (const QWidget* w = controls_->itemAt(i)->widget(); w && w->isVisibleTo(header_))
            right = std::min(right, double(w->geometry().left() - px(8)));
    const QRectF line(px(12), 1, right - px(12), headerHeight() - 1);
    p.setPen(c.text);
    p.setFont(uiFont(12.5, 600));
    const double title_width = std::min(line.width(), figuresWidth(QFontMetricsF(p.font()), title_));
    drawFigures(p, line, Qt::AlignLeft | Qt::AlignVCenter,
                QFontMetricsF(p.font()).elidedText(title_, Qt::ElideRight, line.width()));
    p.setPen(c.muted);
    p.setFont(uiFont(11.5));
    const QRectF rest = line.adjusted(title_width + px(12), 0, 0, 0);
    if (rest.width() > px(24))
        drawFigures(p, rest, Qt::AlignRight | Qt::AlignVCenter,
                    fitFacts(QFontMetricsF(p.font()), facts_, rest.width() - px(2)));
}

void Panel::showMenu(const QPoint& global, const QWidget* over) {
    QMenu menu(this);
    addMenuActions(menu);
    if (!menu.isEmpty() && !exports_.empty()) menu.addSeparator();
    for (const ExportTarget& target : exports_) {
        if (target.widget == over || exports_.size() == 1)
            addExportActions(menu, this, target);
        else if (!over)
            addExportActions(*menu.addMenu(target.name), this, target);
    }
    if (!menu.isEmpty()) menu.exec(global);
}

void Panel::contextMenuEvent(QContextMenuEvent* event) {
    showMenu(event->globalPos(), nullptr);
    event->accept();
}

bool Panel::eventFilter(QObject* object, QEvent* event) {
    if (event->type() == QEvent::ContextMenu) {
        showMenu(static_cast<QContextMenuEvent*>(event)->globalPos(), qobject_cast<QWidget*>(object));
        return true;
    }
    return QWidget::eventFilter(object, event);
}

void FigureLabel::setText(const QString& text) {
    if (text == text_) return;
    text_ = text;
    setAccessibleName(text);
    update();
}

void FigureLabel::setSize(double size, int weight) {
    size_ = size;
    weight_ = weight;
    updateGeometry();
}

QSize FigureLabel::sizeHint() const {
    const QFontMetricsF m(uiFont(size_, weight_));
    return {int(std::ceil(figuresWidth(m, text_))) + 2, int(std::ceil(m.height()))};
}

QSize FigureLabel::minimumSizeHint() const { return {0, sizeHint().height()}; }

void FigureLabel::paintEvent(QPaintEvent*) {
    const Colors& c = colorsOf(this);
    QPainter p(this);
    p.setFont(uiFont(size_, weight_));
    p.setPen(muted_ ? c.muted : c.text);
    const QFontMetricsF m(p.font());
    drawFigures(p, QRectF(rect()), alignment_, fitFacts(m, text_, width()));
}

bool FigureLabel::event(QEvent* event) {
    // What did not fit is said in full when asked.
    if (event->type() == QEvent::ToolTip && toolTip().isEmpty()) {
        if (figuresWidth(QFontMetricsF(uiFont(size_, weight_)), text_) > width())
            QToolTip::showText(static_cast<QHelpEvent*>(event)->globalPos(), plainTooltip(text_), this);
        return true;
    }
    return QWidget::event(event);
}

}  // namespace spartan
