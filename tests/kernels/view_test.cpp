// Conversions of the storage types: every value there and back, and every border between two neighbours.
#include "kernels/view.h"

#include <QtTest>

#include <cmath>
#include <limits>
#include <type_traits>

using namespace spartan;

namespace {

// By the format's definition.
double value_of(uint16_t bits, int exponent_bits, int mantissa_bits) {
    const int bias = (1 << (exponent_bits - 1)) - 1, most = (1 << exponent_bits) - 1;
    const int exponent = bits >> mantissa_bits & most, mantissa = bits & ((1 << mantissa_bits) - 1);
    const double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == most)
        return mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
    const int one = exponent ? 1 << mantissa_bits : 0;
    return sign * std::ldexp(one + mantissa, std::max(exponent, 1) - bias - mantissa_bits);
}
double value_of(bf16 v) { return value_of(v.bits, 8, 7); }
double value_of(f16 v) { return value_of(v.bits, 5, 10); }

template <class T>
void check_every_value() {
    for (uint32_t bits = 0; bits < 65536; ++bits) {
        const T v{uint16_t(bits)};
        const float got = to_float(v);
        if (std::isnan(value_of(v))) {
            QVERIFY(std::isnan(got) && std::isnan(to_float(from_float<T>(got))));
            continue;
        }
        QVERIFY(double(got) == value_of(v) && std::signbit(got) == std::signbit(value_of(v)));
        QCOMPARE(from_float<T>(got).bits, v.bits);
    }
}

// Between all neighbours up to the last finite value and infinity, in whose place the next power of two counts.
template <class T>
void check_every_border() {
    const uint16_t infinity = from_float<T>(INFINITY).bits;
    for (const uint16_t sign : {uint16_t(0), uint16_t(0x8000)})
        for (uint16_t bits = 0; bits < infinity; ++bits) {
            const float low = to_float(T{uint16_t(bits | sign)});
            const float step = bits > 0 && bits + 1 == infinity ? low - to_float(T{uint16_t((bits - 1) | sign)})
                                                                : to_float(T{uint16_t((bits + 1) | sign)}) - low;
            const float middle = low + step / 2;
            const auto next = uint16_t(bits + 1);
            const auto rounded = [&](float v) { return from_float<T>(v).bits; };
            QCOMPARE(rounded(middle), uint16_t((bits % 2 ? next : bits) | sign));
            QCOMPARE(rounded(std::nextafter(middle, low)), uint16_t(bits | sign));
            QCOMPARE(rounded(std::nextafter(middle, 2 * middle)), uint16_t(next | sign));
        }
}

}  // namespace

class ViewTest : public QObject {
    Q_OBJECT
private slots:
    void every_value() {
        check_every_value<bf16>();
        check_every_value<f16>();
    }
    void every_border() {
        check_every_border<bf16>();
        check_every_border<f16>();
    }

    void known_values_of_f16() {
        QCOMPARE(to_f16(1).bits, uint16_t(0x3c00));
        QCOMPARE(to_f16(-2).bits, uint16_t(0xc000));
        QCOMPARE(to_f16(65504).bits, uint16_t(0x7bff));
        QCOMPARE(to_f16(std::nextafter(65520.f, 0.f)).bits, uint16_t(0x7bff));
        QCOMPARE(to_f16(65520).bits, uint16_t(0x7c00));
        QCOMPARE(to_f16(-1e30f).bits, uint16_t(0xfc00));
        QCOMPARE(to_f16(0x1p-24f).bits, uint16_t(1));
        QCOMPARE(to_f16(0x1p-25f).bits, uint16_t(0));  // half of it: to the even zero
        QCOMPARE(to_f16(0x1p-14f).bits, uint16_t(0x0400));
        QCOMPARE(to_f16(std::numeric_limits<float>::denorm_min()).bits, uint16_t(0));
        QCOMPARE(to_f16(-0.f).bits, uint16_t(0x8000));
        for (const float nan : {std::nanf(""), -std::nanf("1")}) QVERIFY(std::isnan(to_float(to_f16(nan))));
    }

    void types_by_name() {
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
            QCOMPARE(with_type(dtype, []<class T>(T) { return dtype_of<T>; }), dtype);
            QCOMPARE(with_type(dtype, []<class T>(T) { return int64_t(sizeof(T)); }), size_of(dtype));
            QCOMPARE(with_type(dtype, []<class T>(T) { return is_16_bit<T>; }), dtype != DType::f32);
        }
    }
};

QTEST_GUILESS_MAIN(ViewTest)
#include "view_test.moc"
