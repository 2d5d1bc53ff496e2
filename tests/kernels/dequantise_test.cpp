#include "kernels/dequantise.h"
#include "kernel_testing.h"

#include <nlohmann/json.hpp>

#include <cstring>
#include <fstream>
#include <limits>

using namespace spartan;

namespace {

std::vector<float> dequantised(GgufType type, const std::vector<uint8_t>& bytes, int64_t count) {
    std::vector<uint8_t> shifted(bytes.size() + 1);  // at an odd address
    std::copy(bytes.begin(), bytes.end(), shifted.begin() + 1);
    std::vector<float> out(size_t(count), NAN);
    dequantise_row(type, shifted.data() + 1, count, out.data());
    return out;
}

double half_oracle(uint16_t h) {
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    const double sign = h & 0x8000 ? -1 : 1;
    if (exponent == 31)
        return mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
    return sign * (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
}

}  // namespace

class DequantiseTest : public QObject {
    Q_OBJECT

private slots:
    void blocks() {
        Random random(1);
        for (const GgufType type : {GgufType::q4_0, GgufType::q4_1, GgufType::q8_0}) {
            const int64_t num_blocks = 7, bytes = block_bytes(type);
            QCOMPARE(block_elements(type), int64_t(32));
            std::vector<uint8_t> raw(size_t(num_blocks * bytes));
            for (uint8_t& b : raw) b = uint8_t(random.between(0, 255));
            for (int64_t b = 0; b < num_blocks; ++b)  // finite scales
                for (const int64_t at : {int64_t(1), int64_t(3)})
                    if (at == 1 || type == GgufType::q4_1) raw[size_t(b * bytes + at)] &= 0xb3;
            const auto got = dequantised(type, raw, num_blocks * 32);
            for (int64_t b = 0; b < num_blocks; ++b) {
                const uint8_t* p = raw.data() + b * bytes;
                const double d = half_oracle(uint16_t(p[0] | p[1] << 8)), m = half_oracle(uint16_t(p[2] | p[3] << 8));
                for (int i = 0; i < 32; ++i) {
                    double want = 0;
                    const auto nibble = [&](const uint8_t* q) { return double(i < 16 ? q[i] & 15 : q[i - 16] >> 4); };
                    if (type == GgufType::q4_0) want = d * (nibble(p + 2) - 8);
                    if (type == GgufType::q4_1) want = double(float(float(d) * float(nibble(p + 4))) + float(m));
                    if (type == GgufType::q8_0) want = d * double(int8_t(p[2 + i]));
                    QVERIFY(double(got[size_t(b * 32 + i)]) == want);
                }
            }
        }
    }

    // Random blocks as the gguf package widens them (tests/fidelity/make_gguf_blocks.py), to the bit.
    void blocksOfTheReference() {
        std::ifstream in(TESTS_DIR "/fixtures/gguf_blocks.json");
        const auto cases = nlohmann::json::parse(in);
        QCOMPARE(cases.size(), size_t(10));
        for (const auto& [name, c] : cases.items()) {
            const auto type = GgufType(c["type"].get<uint32_t>());
            QVERIFY2(is_supported(type) && name == name_of(type), name.c_str());
            QCOMPARE(block_elements(type), c["elements"].get<int64_t>());
            QCOMPARE(block_bytes(type), c["bytes"].get<int64_t>());
            const auto decoded = [&](const char* key) {
                return QByteArray::fromBase64(QByteArray::fromStdString(c[key].get<std::string>()));
            };
            const QByteArray blocks = decoded("blocks"), values = decoded("values");
            QVERIFY(blocks.size() == 3 * block_bytes(type) && values.size() == 3 * 4 * block_elements(type));
            const auto got = dequantised(type, {blocks.begin(), blocks.end()}, 3 * block_elements(type));
            std::vector<float> want(got.size());
            std::memcpy(want.data(), values.data(), size_t(values.size()));
            for (size_t i = 0; i < got.size(); ++i)
                VERIFY_CASE(got[i] == want[i], text_of(name, "[", i, "]: got ", got[i], ", want ", want[i]));
        }
    }

    void plainTypes() {
        const auto f32 = dequantised(GgufType::f32, {0, 0, 128, 63, 0, 0, 0, 192}, 2);
        QCOMPARE(f32, (std::vector<float>{1, -2}));
        QCOMPARE(dequantised(GgufType::f16, {0, 60, 0, 192}, 2), (std::vector<float>{1, -2}));
        QCOMPARE(dequantised(GgufType::bf16, {128, 63, 0, 192}, 2), (std::vector<float>{1, -2}));
        QCOMPARE(dequantised(GgufType::q4_0, {}, 0), std::vector<float>{});
    }

    void names() {
        QVERIFY(is_supported(GgufType::q4_1));
        QVERIFY(!is_supported(GgufType(9)));  // Q8_1
        QCOMPARE(std::string(name_of(GgufType::q8_0)), std::string("Q8_0"));
        QCOMPARE(std::string(name_of(GgufType(999))), std::string("?"));
    }
};

QTEST_GUILESS_MAIN(DequantiseTest)
#include "dequantise_test.moc"
