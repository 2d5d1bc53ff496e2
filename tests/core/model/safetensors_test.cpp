#include "core/model/safetensors.h"

#include "kernels/view.h"
#include "model_files.h"

#include <sys/stat.h>
#include <unistd.h>
#include <QElapsedTimer>
#include <QTemporaryDir>
#include <QTest>
#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>

using namespace spartan;
using namespace spartan::test;

namespace {

// JSON written with ' for " (moc loses its way in raw strings).
std::string quoted(std::string text) {
    std::replace(text.begin(), text.end(), '\'', '"');
    return text;
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets,
                const std::string& data) {
    return raw_safetensors(
        quoted("{'t':{'dtype':") + dtype + quoted(",'shape':") + shape + quoted(",'data_offsets':") + offsets + "}}",
        data);
}

}  // namespace

class SafetensorsTest : public QObject {
    Q_OBJECT

    const QTemporaryDir dir_;
    std::string path() const { return dir_.filePath("m.safetensors").toStdString(); }

private slots:
    void refuses_data() {
        QTest::addColumn<QByteArray>("bytes");
        QTest::addColumn<QByteArray>("says");
        const auto row = [](const char* name, const std::string& bytes, const char* says) {
            QTest::newRow(name) << QByteArray::fromStdString(bytes) << QByteArray(says);
        };
        const std::string four(4, '\0');
        // reliability.md S1, S2
        row("empty", "", "found 0 bytes, expected a safetensors file of at least 8 bytes");
        row("7 bytes", std::string(7, '\0'), "found 7 bytes");
        row("8 bytes", std::string(8, '\0'), "line 1, column 1");
        row("header 2^64-1", bytes_of(UINT64_MAX) + "{}", "header size: found 18446744073709551615");
        row("header 2^63", bytes_of(uint64_t(1) << 63) + "{}", "header size: found 9223372036854775808");
        row("header 100,000,001", bytes_of(uint64_t(100'000'001)) + "{}", "header size: found 100000001");
        row("header past the end", bytes_of(uint64_t(3)) + "{}", "header size: found 3, expected at most 2");
        // S3, S4, S5
        row("no tensors", raw_safetensors("{}", ""), "no tensors");
        row("only metadata", raw_safetensors(quoted("{'__metadata__':{'a':'b'}}"), ""), "no tensors");
        row("bad UTF-8", raw_safetensors("{\"\xff\":1}", ""), "UTF-8");
        row("byte order mark", raw_safetensors("\xef\xbb\xbf{}", ""), "byte order mark");
        row("a list", raw_safetensors("[]", ""), "header: found a list, expected an object");
        row("a number", raw_safetensors("1", ""), "header: found 1, expected an object");
        row("half an object", raw_safetensors("{", ""), "line 1");
        row("trailing text", raw_safetensors("{}x", ""), "line 1, column 3");
        row("100,000 levels", raw_safetensors(std::string(100'000, '['), ""), "found a list");
        row("100,000 levels in a tensor", raw_safetensors("{\"t\":{\"shape\":" + std::string(100'000, '['), ""),
            "t.shape");
        // S6
        row("duplicate name",
            raw_safetensors(quoted("{'t':{'dtype':'U8','shape':[4],'data_offsets':[0,4]},'t':{'dtype':'F32','shape':[1]"
                                   ",'data_offsets':[0,4]}}"),
                            four),
            "t: found the name twice");
        row("duplicate empty name",
            raw_safetensors(quoted("{'t':{'dtype':'U8','shape':[0],'data_offsets':[0,0]},'t':{'dtype':'U8','shape':[0],"
                                   "'data_offsets':[0,0]}}"),
                            ""),
            "t: found the name twice");
        row("duplicate key in tensor",
            raw_safetensors(quoted("{'t':{'dtype':'F32','dtype':'U8','shape':[1],'data_offsets':[0,4]}}"), four),
            "t.dtype: found the key twice");
        // S7
        row("negative offset", one(quoted("'F32'"), "[1]", "[-4,0]", four), "t.data_offsets: found -4");
        row("reversed offsets", one(quoted("'F32'"), "[1]", "[4,0]", four), "t.data_offsets: found [4, 0]");
        row("fractional offset", one(quoted("'F32'"), "[1]", "[0,1.5]", four), "t.data_offsets: found 1.5");
        row("string offset", one(quoted("'F32'"), "[1]", quoted("[0,'4']"), four),
            "t.data_offsets: found \"4\" (string)");
        row("three offsets", one(quoted("'F32'"), "[1]", "[0,4,8]", four), "t.data_offsets: found more than 2 entries");
        row("one offset", one(quoted("'F32'"), "[1]", "[0]", four), "t.data_offsets: found 1 entries");
        row("offset 2^63", one(quoted("'F32'"), "[1]", "[0,9223372036854775808]", four),
            "t.data_offsets: found 9223372036854775808");
        row("offset 2^64", one(quoted("'F32'"), "[1]", "[0,18446744073709551616]", four), "18446744073709551616");
        row("offsets not a list", one(quoted("'F32'"), "[1]", "4", four), "t.data_offsets: found 4");
        row("offsets in a list", one(quoted("'F32'"), "[1]", "[[0,4]]", four), "t.data_offsets");
        // S8
        row("overlap",
            raw_safetensors(quoted("{'a':{'dtype':'F32','shape':[1],'data_offsets':[0,4]},'b':{'dtype':'F32','shape':["
                                   "1],'data_offsets':[2,6]}}"),
                            std::string(6, 0)),
            "b.data_offsets: found begin 2, expected 4");
        row("hole",
            raw_safetensors(quoted("{'a':{'dtype':'F32','shape':[1],'data_offsets':[0,4]},'b':{'dtype':'F32','shape':["
                                   "1],'data_offsets':[8,12]}}"),
                            std::string(12, 0)),
            "b.data_offsets: found begin 8, expected 4");
        row("first not at 0", one(quoted("'F32'"), "[1]", "[4,8]", std::string(8, 0)),
            "t.data_offsets: found begin 4, expected 0");
        row("trailing byte", one(quoted("'F32'"), "[1]", "[0,4]", std::string(5, 0)),
            "found 5 bytes after the header, expected 4");
        row("file too short", one(quoted("'F32'"), "[1]", "[0,4]", std::string(3, 0)),
            "t.data_offsets: found end 0 + 4, expected at most 3");
        // S10, S11
        row("wrapping shape", one(quoted("'F32'"), "[4194305,4194305,211106198978564]", "[0,16]", std::string(16, 0)),
            "t.shape");
        row("negative dimension", one(quoted("'F32'"), "[-1]", "[0,4]", four), "t.shape: found -1");
        row("rank 65", one(quoted("'F32'"), "[" + QByteArray("1,").repeated(64).toStdString() + "1]", "[0,4]", four),
            "t.shape: found more than 64 entries");
        row("shape over data", one(quoted("'F32'"), "[1000,1000]", "[0,4]", four),
            "t.shape: found [1000, 1000] of F32 (4000000 bytes), expected the 4 bytes");
        row("shape null", one(quoted("'F32'"), "null", "[0,4]", four), "t.shape: found null");
        // S12
        row("metadata number",
            raw_safetensors(quoted("{'__metadata__':{'a':1},'t':{'dtype':'U8','shape':[0],'data_offsets':[0,0]}}"), ""),
            "__metadata__.a: found 1, expected a string");
        row("metadata object", raw_safetensors(quoted("{'__metadata__':{'a':{}}}"), ""), "__metadata__");
        row("metadata list", raw_safetensors(quoted("{'__metadata__':[]}"), ""), "__metadata__");
        row("metadata twice", raw_safetensors(quoted("{'__metadata__':{},'__metadata__':{}}"), ""),
            "__metadata__: found the key twice");
        row("metadata key twice", raw_safetensors(quoted("{'__metadata__':{'a':'1','a':'2'}}"), ""),
            "__metadata__.a: found the key twice");
        // D16
        row("unknown dtype", one(quoted("'F33'"), "[1]", "[0,4]", four), "t.dtype: found \"F33\" (string)");
        row("dtype number", one("1", "[1]", "[0,4]", four), "t.dtype: found 1");
        row("odd F4", one(quoted("'F4'"), "[3]", "[0,1]", "x"),
            "t.shape: found [3] of F4, expected a whole number of bytes");
        row("unknown key",
            raw_safetensors(quoted("{'t':{'dtype':'F32','shape':[1],'data_offsets':[0,4],'extra':1}}"), four),
            "t.extra");
        row("no dtype", raw_safetensors(quoted("{'t':{'shape':[1],'data_offsets':[0,4]}}"), four), "t: found no dtype");
        row("no shape", raw_safetensors(quoted("{'t':{'dtype':'F32','data_offsets':[0,4]}}"), four),
            "t: found no shape");
        row("no offsets", raw_safetensors(quoted("{'t':{'dtype':'F32','shape':[1]}}"), four),
            "t: found no data_offsets");
        row("tensor is a string", raw_safetensors(quoted("{'t':'x'}"), ""),
            "t: found \"x\" (string), expected an object");
        row("long name", raw_safetensors("{\"" + std::string(5000, 'n') + "\":{}}", ""), "a name of 5000 bytes");
    }
    void refuses() {
        QFETCH(QByteArray, bytes);
        QFETCH(QByteArray, says);
        put(path(), bytes.toStdString());
        QElapsedTimer timer;
        timer.start();
        const auto file = SafetensorsFile::open(path());
        QVERIFY(timer.elapsed() < 1000);
        QVERIFY(!file);
        VERIFY_CONTAINS(file.error().message(), path() + ": ");
        VERIFY_CONTAINS(file.error().message(), says.toStdString());
        QVERIFY(file.error().message().size() < 600);
    }

    void accepts_what_the_reference_accepts() {
        // S9: zero-size tensors share an offset; rank 0; white space around the header; any order of entries.
        const std::string header = quoted(
            "  "
            "{'z':{'dtype':'F32','shape':[0,7],'data_offsets':[4,4]},'b':{'dtype':'BF16','shape':[2],'data_offsets':[4,"
            "8]},"
            "'a':{'dtype':'F32','shape':[],'data_offsets':[0,4]},'__metadata__':{'format':'pt'}}  \n");
        put(path(), raw_safetensors(header, bytes_of(1.5f) + bytes_of(to_bf16(2.f)) + bytes_of(to_bf16(-3.f))));
        const auto file = SafetensorsFile::open(path());
        VERIFY_OK(file);
        QCOMPARE((*file)->entries().size(), size_t(3));
        QCOMPARE((*file)->metadata().at(0).second, std::string("pt"));
        QCOMPARE((*(*file)->read_finite(*(*file)->find("a"))), std::vector<float>{1.5f});
        QCOMPARE((*(*file)->read_finite(*(*file)->find("b"))), (std::vector<float>{2.f, -3.f}));
        QVERIFY((*file)->read_finite(*(*file)->find("z"))->empty());
        QVERIFY(!(*file)->find("c"));
    }

    void misaligned_data() {  // D17
        const std::string header = quoted("{'t':{'dtype':'F32','shape':[2],'data_offsets':[0,8]}} ");
        QVERIFY(header.size() % 4 != 0);
        put(path(), raw_safetensors(header, bytes_of(std::vector<float>{7, 8})));
        const auto file = SafetensorsFile::open(path());
        VERIFY_OK(file);
        QCOMPARE(*(*file)->read_finite((*file)->entries()[0]), (std::vector<float>{7, 8}));
    }

    void half_precision() {
        // 1, -2, largest, smallest subnormal, 1/3 in fp16.
        put(path(),
            safetensors({{"h", "F16", {5}, bytes_of(std::vector<uint16_t>{0x3c00, 0xc000, 0x7bff, 0x0001, 0x3555})}}));
        const auto values =
            (*SafetensorsFile::open(path()))->read_finite((*SafetensorsFile::open(path()))->entries()[0]);
        QCOMPARE(*values, (std::vector<float>{1, -2, 65504, std::ldexp(1.f, -24), 0.333251953125f}));
    }

    void names_what_is_not_finite() {
        std::vector<float> v(300'000, 1.f);
        v[270'001] = NAN;
        put(path(), safetensors({{"w", "F32", {300'000}, bytes_of(v)}, {"i", "I64", {1}, std::string(8, 0)}}));
        const auto file = SafetensorsFile::open(path());
        const auto read = (*file)->read_finite(*(*file)->find("w"));
        VERIFY_CONTAINS(read.error().message(), "w[270001]: found NaN, expected a finite value");
        VERIFY_CONTAINS((*file)->read_finite(*(*file)->find("i")).error().message(),
                        "i: found dtype I64, expected F32, F16 or BF16");
    }

    void truncated_while_open() {  // K72, K73
        put(path(), safetensors({{"w", "F32", {4096}, std::string(16384, 0)}}));
        const auto file = SafetensorsFile::open(path());
        QVERIFY(::truncate(path().c_str(), 1000) == 0);
        const auto read = (*file)->read_finite((*file)->entries()[0]);
        QVERIFY(!read);
        VERIFY_CONTAINS(read.error().message(), "the file ends at byte 1000");
    }

    void special_files() {  // S15
        const std::string pipe = dir_.filePath("p.safetensors").toStdString();
        QVERIFY(::mkfifo(pipe.c_str(), 0600) == 0);
        const std::string folder = dir_.path().toStdString();
        for (const auto& [path, kind] :
             {std::pair(pipe, "a named pipe"), {std::string("/dev/zero"), "a device"}, {folder, "a folder"}}) {
            const auto file = SafetensorsFile::open(path);
            QVERIFY(!file);
            VERIFY_CONTAINS(file.error().message(), path + ": found " + kind + ", expected a regular file");
        }
    }

    void a_million_empty_tensors() {  // S13
        std::string header = "{";
        for (int i = 0; i < 1'000'000; ++i)
            header += (i ? ",\"tensor." : "\"tensor.") + std::to_string(i) +
                      quoted("':{'dtype':'F32','shape':[0],'data_offsets':[0,0]}");
        put(path(), raw_safetensors(header + "}", ""));
        const std::clock_t start = std::clock();  // the processor's time: the machine may be busy
        const auto file = SafetensorsFile::open(path());
        VERIFY_OK(file);
        const double seconds = double(std::clock() - start) / CLOCKS_PER_SEC;
        QVERIFY2(seconds < 5, std::to_string(seconds).c_str());
        QVERIFY((*file)->find("tensor.999999"));
    }

    void large_metadata() {  // S12
        put(path(), raw_safetensors(quoted("{'__metadata__':{'m':'") + std::string(50'000'000, 'x') +
                                        quoted("'},'t':{'dtype':'U8','shape':[1],'data_offsets':[0,1]}}"),
                                    "x"));
        VERIFY_OK(SafetensorsFile::open(path()));
    }

    void writes_what_it_reads() {
        const std::vector<float> w = random_floats(6, 3);
        const std::vector<int64_t> n = {1, 2, 3};
        const SafetensorsTensor tensors[] = {{"w", "F32", {2, 3}, std::as_bytes(std::span(w))},
                                             {"n", "I64", {3}, std::as_bytes(std::span(n))}};
        VERIFY_OK(write_safetensors(path(), tensors, {{"format", "pt"}}));
        const auto file = SafetensorsFile::open(path());
        VERIFY_OK(file);
        QCOMPARE((*file)->entries()[0].begin % 8, 0);
        QCOMPARE(*(*file)->read_finite(*(*file)->find("w")), w);
        QCOMPARE((*file)->find("n")->shape, std::vector<int64_t>{3});
        QCOMPARE((*file)->metadata().size(), size_t(1));
    }

    // Whatever is damaged: an error or a file whose tensors lie inside it.
    void mutations_never_crash() {
        const std::string good = safetensors({{"model.a", "F32", {2, 3}, std::string(24, 1)},
                                              {"model.b", "BF16", {4}, std::string(8, 2)},
                                              {"c", "I8", {0, 5}, ""}});
        const size_t header_end = good.size() - 32;
        const std::string fuzzed = dir_.filePath("fuzz.safetensors").toStdString();
        std::mt19937 random(11);
        for (int i = 0; i < 6000; ++i) {
            std::string bytes = good;
            for (auto k = 1 + random() % 3; k > 0; --k)
                bytes[random() % header_end] = char(random() % 2 ? random() % 256 : 48 + random() % 10);
            if (random() % 5 == 0) bytes.resize(random() % bytes.size());
            put(fuzzed, bytes);
            const auto file = SafetensorsFile::open(fuzzed);
            if (!file) continue;
            for (const SafetensorsEntry& e : (*file)->entries()) {
                QVERIFY(e.begin >= 8 && e.bytes >= 0 && e.begin + e.bytes <= (*file)->file()->size());
                (void)(*file)->read_finite(e).has_value();
            }
        }
    }
};

QTEST_GUILESS_MAIN(SafetensorsTest)
#include "safetensors_test.moc"
